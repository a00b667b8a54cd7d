"""The input of a batch: JSON lines, plain or gzipped, one refinement a line.

    {"id": "a", "prompt": "...", "draft": "...", "rounds": 2}

`id` defaults to the line's number, `messages` may stand for the prompt, and any option of `POST /v1/refine` may be
given. Other keys are the user's own.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from pydantic import ValidationError

from slhf.errors import InputError
from slhf.exchange import Conversation, Options, refine_request

OPTION_KEYS = frozenset(Options.__annotations__) - {"draft"}


@dataclass(frozen=True)
class Keys:
    """The fields that hold the prompt and the draft. One that is named by the user must be in every line."""

    prompt: str | None = None
    """None: "prompt", or `messages`."""
    draft: str | None = None
    """None: "draft", where the line has it."""


@dataclass(frozen=True)
class Line:
    number: int
    id: str | int
    conversation: Conversation
    options: Options
    fields: dict[str, Any]
    """The line as it was read."""

    @property
    def key(self) -> str:
        """What makes the line the same one after an interruption."""
        return str(self.id)


def read_lines(source: Path, keys: Keys, defaults: Options) -> Iterator[Line]:
    """Lines in the file's order, blank ones left out; a line's own options win over `defaults`.

    Raises InputError naming file and line.
    """
    for number, raw in _numbered(source):
        try:
            yield _line(number, raw, keys, defaults)
        except ValidationError as exc:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in exc.errors())
            raise InputError(f"{source}:{number}: {problems}") from exc
        except ValueError as exc:  # not JSON, not UTF-8, or what _line found wrong
            raise InputError(f"{source}:{number}: {exc}") from exc


def ids(source: Path, keys: Keys, defaults: Options) -> set[str]:
    """Reads the whole file; raises InputError for a line that cannot be sent and for an id that comes twice."""
    seen: dict[str, int] = {}
    for line in read_lines(source, keys, defaults):
        first = seen.setdefault(line.key, line.number)
        if first != line.number:
            raise InputError(f"{source}:{line.number}: id {line.id!r} is that of line {first} too")
    return set(seen)


def _numbered(source: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with _open(source) as file:
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    yield number, raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
        raise InputError(f"{source}: broken gzip file: {exc}") from exc


def _open(source: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(source)) if source.suffix == ".gz" else source.open("rb")


def _line(number: int, raw: bytes, keys: Keys, defaults: Options) -> Line:
    fields = json.loads(raw)
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    json.dumps(fields, ensure_ascii=False).encode()  # a lone surrogate could be neither sent nor written
    identity = fields.get("id", number)
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise ValueError(f"id must be a string or a whole number, not {identity!r}")
    taken = (keys.prompt, keys.draft)
    options = {key: fields[key] for key in OPTION_KEYS if fields.get(key) is not None and key not in taken}
    line = Line(number, identity, _conversation(fields, keys), cast(Options, {**defaults, **options}), fields)
    draft = fields.get("draft") if keys.draft is None else _named(fields, keys.draft)
    if draft is not None:
        line.options["draft"] = draft
    refine_request(line.conversation, line.options)
    return line


def _conversation(fields: dict[str, Any], keys: Keys) -> Conversation:
    """A field that was named may hold either form: data sets often have a list of messages as their prompt."""
    if keys.prompt is not None:
        given = [_named(fields, keys.prompt)]
    else:
        given = [fields[key] for key in ("prompt", "messages") if fields.get(key) is not None]
    if len(given) != 1:
        raise ValueError("give exactly one of 'prompt' and 'messages'")
    if not isinstance(given[0], str | list):
        raise ValueError("a prompt is a string, messages are a list")
    return cast(Conversation, given[0])


def _named(fields: dict[str, Any], key: str) -> Any:
    if fields.get(key) is None:
        raise ValueError(f"the line has no {key!r}")
    return fields[key]
