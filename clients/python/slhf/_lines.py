"""The lines of a batch: one refinement each.

    {"id": "a", "prompt": "...", "draft": "...", "refine": {"rounds": 2}}

`id` defaults to the line's number, `messages` may stand for the prompt, and `refine` holds options of `POST /v1/refine`
for this line. All other keys are the user's own, whatever their names: data sets have columns `model`, `temperature` or
`instruction` that say something else.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError

from slhf._exchange import Conversation, Options, refine_request
from slhf._source import Source
from slhf.errors import InputError, where_and_what

OPTION_KEYS = frozenset(Options.__annotations__)


@dataclass(frozen=True)
class Keys:
    """The fields that hold the prompt and the draft. A field that the user names must be in every line."""

    prompt: str | None = None
    """None: "prompt", or `messages`."""
    draft: str | None = None
    """None: "draft", where the line has it."""


@dataclass(frozen=True)
class Line:
    """One refinement of a batch."""

    number: int
    """The line's place in the input, counted from 1."""
    id: str | int
    conversation: Conversation
    options: Options
    fields: dict[str, Any]
    """The line as it was read."""

    @property
    def key(self) -> str:
        """What makes the line the same one after an interruption."""
        return str(self.id)


@dataclass(frozen=True)
class Contents:
    """What a whole input holds."""

    keys: frozenset[str]
    last: int
    """Number of the last line."""
    like_options: frozenset[str]
    """Columns that are called like an option and set none."""


def read_lines(source: Source, keys: Keys, options: Options) -> Iterator[Line]:
    """Yield the lines in the input's order; `options` win over a line's own.

    Raises InputError naming file and line.
    """
    for number, fields in source.values():
        try:
            yield _line(number, fields, keys, options)
        except ValidationError as exc:
            problems = "; ".join(where_and_what(dict(e)) for e in exc.errors())
            raise InputError(f"{source.name}:{number}: {problems}") from exc
        except ValueError as exc:
            raise InputError(f"{source.name}:{number}: {exc}") from exc


def contents(source: Source, keys: Keys, options: Options) -> Contents:
    """Read the whole input. Raises InputError for a line that cannot be sent, an id that comes twice, or no line."""
    seen: dict[str, int] = {}
    like_options: set[str] = set()
    for line in read_lines(source, keys, options):
        first = seen.setdefault(line.key, line.number)
        if first != line.number:
            raise InputError(f"{source.name}:{line.number}: id {line.id!r} is that of line {first} too")
        like_options |= line.fields.keys() & OPTION_KEYS - {"draft", keys.prompt, keys.draft}
    if not seen:
        raise InputError(f"{source.name}: it holds no line")
    return Contents(frozenset(seen), max(seen.values()), frozenset(like_options))


def _line(number: int, fields: object, keys: Keys, options: Options) -> Line:
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    identity = fields.get("id", number)
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise ValueError(f"id must be a string or a whole number, not {identity!r}")
    chosen = _own_options(fields)
    draft = fields.get("draft") if keys.draft is None else _named(fields, keys.draft)
    if draft is not None:
        if "draft" in chosen:
            raise ValueError("refine.draft: the line has a draft besides")
        chosen["draft"] = draft
    chosen |= {key: value for key, value in options.items() if value is not None}
    line = Line(number, identity, _conversation(fields, keys), cast(Options, chosen), fields)
    refine_request(line.conversation, line.options)
    return line


def _own_options(fields: dict[str, Any]) -> dict[str, Any]:
    own = fields.get("refine")
    if own is None:
        return {}
    if not isinstance(own, dict):
        raise ValueError("refine: it holds the options of the line, as an object")
    if unknown := own.keys() - OPTION_KEYS:
        raise ValueError(f"refine.{min(unknown)}: not an option of a line")
    return {key: value for key, value in own.items() if value is not None}


def _conversation(fields: dict[str, Any], keys: Keys) -> Conversation:
    """A field that was named may hold either form: data sets often have a list of messages as their prompt."""
    if keys.prompt is not None:
        given = [_named(fields, keys.prompt)]
    else:
        given = [fields[key] for key in ("prompt", "messages") if fields.get(key) is not None]
    if len(given) != 1:
        raise ValueError("give exactly one of 'prompt' and 'messages', or name the one that counts (--prompt-key)")
    if not isinstance(given[0], str | list):
        raise ValueError("a prompt is a string, messages are a list")
    return cast(Conversation, given[0])


def _named(fields: dict[str, Any], key: str) -> Any:
    if fields.get(key) is None:
        raise ValueError(f"the line has no {key!r}")
    return fields[key]
