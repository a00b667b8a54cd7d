"""Reads data as examples: a chat that asks, and what is known about answers to it (a pair, or scores of one answer).

A JSONL(.gz) row asks by `prompt`, `messages`, `chat` or `instruction` (a text, or a list of messages that ends with the
user's turn). It may hold `chosen` with `rejected`, `response` with or without `scores`, a `reference`, an `id` and a
`source`. Where a program can say whether an answer is right, `check` says how (checks/). A `draft`, which `model`
wrote, is an answer to refine. `rows.py` and `formats.py` know what others call these. Other keys serve `where` alone;
those that hold text are logged.
"""

import hashlib
import itertools
import logging
import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slhf_training.checks.registry import CheckSettings
from slhf_training.config import RelativePath, Section
from slhf_training.data import Example, Pair, Scores
from slhf_training.data.formats import TASK_KEYS, Format, FormatError, HubData, formatted, hub_examples, without_check
from slhf_training.data.rows import Columns, Row, checked, log_unused, read, read_rows
from slhf_training.errors import DataError
from slhf_training.types import Chat, Message

_LOG = logging.getLogger(__name__)
Value = str | int | float | bool


class DataSettings(Section):
    files: tuple[RelativePath, ...] = ()
    """JSONL files, gzipped where the name ends with .gz."""
    hub: tuple[HubData, ...] = ()
    format: Format | None = None
    """The data set whose columns the files have, where a program can check answers to them (formats.py). None: a row
    that can be checked says how in its `check`."""
    tasks: RelativePath | None = None
    """JSONL with the tasks that the files' rows only name (by `task` or `key`): drafts of code_tasks and ifeval."""
    where: dict[str, Value | tuple[Value, ...]] = {}
    """Only rows are read whose key has this value, or one of these values."""
    part: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(gt=0, le=1)]] = (0.0, 1.0)
    """Only these prompts: from where to where in an order of all possible prompts that is the same everywhere. Parts
    that do not overlap share no prompt, so [0, 0.5] can train a judge and [0.5, 1] another that checks it, and
    [0, 0.9] is for training where [0.9, 1] is held out for every choice."""
    seed: int = 0
    """The seed of the order: the same seed and files give the same order."""
    limit: int | None = Field(default=None, gt=0)
    """How many examples are taken from the start of that order; None takes all."""

    @model_validator(mode="after")
    def _some_source(self) -> Self:
        if not self.files and not self.hub:
            raise ValueError("name at least one of files and hub")
        if self.part[0] >= self.part[1]:
            raise ValueError(f"part: {self.part[0]} is not below {self.part[1]}")
        if self.format is not None and self.hub:
            raise ValueError("format: is of files; of hub data sets the adapter says it")
        if self.tasks is not None and (self.format not in TASK_KEYS):
            raise ValueError(f"tasks: rows of format {self.format} name none")
        return self


def load(settings: DataSettings) -> list[Example]:
    """Return the examples of all sources, shuffled. Raises DataError naming file (or data set), line and key."""
    tasks = _tasks(settings)
    examples = [example for path in settings.files for example in _of_file(path, settings, tasks)]
    for source in settings.hub:
        found = list(hub_examples(source, lambda row: _matches(row, settings.where)))
        examples += [example for example in found if example is not None]
        if None in found:
            _LOG.warning("%s: %d rows are no %s rows and were dropped", source.name, found.count(None), source.adapter)
    first, end = settings.part
    examples = [example for example in examples if first <= _position(example.chat, _PARTS) < end]
    if not examples:
        raise DataError(f"no rows in {_names(settings)} where {settings.where}, part {first} to {end}")
    random.Random(settings.seed).shuffle(examples)
    return examples[: settings.limit]


def _of_file(path: Path, settings: DataSettings, tasks: Mapping[str, Row]) -> list[Example]:
    left_out: Counter[tuple[str, str]] = Counter()

    def schema(row: Row) -> Row:
        found = formatted(row, settings.format, tasks)
        left_out.update(without_check(row, settings.format, tasks).items())
        return found

    examples = list(read_jsonl(path, settings.where, schema))
    for why in {why: None for _, why in left_out}:
        kinds = ", ".join(f"{kind} ({rows} rows)" for (kind, reason), rows in sorted(left_out.items()) if reason == why)
        _LOG.warning("%s: rows without a check: %s: %s", path, why, kinds)
    return examples


def read_jsonl(
    path: Path,
    where: Mapping[str, Value | tuple[Value, ...]] | None = None,
    schema: Callable[[Row], Row] = dict,
) -> Iterator[Example]:
    """Yield the file's examples in its order, with each row as `schema` gives it.

    Raises DataError naming file, line and key.
    """
    unused: Counter[str] = Counter()
    for number, row in read_rows(path):
        if _matches(row, where or {}):
            try:
                columns = Columns(schema(row))
            except FormatError as exc:
                raise DataError(f"{path}:{number}: {exc}") from exc
            yield _example(columns, path, number)
            unused.update(columns.unused_texts())
    log_unused(str(path), {name: rows for name, rows in unused.items() if name not in (where or {})})


def asked(row: Row, place: str) -> dict[str, Any]:
    """Return the row with its question under `prompt`, whatever the row calls it.

    Raises DataError naming place and column.
    """
    return {**row, **_read(Columns(row), place)}


def fitting(examples: Sequence[Example], length: Callable[[Chat], int], limit: int) -> tuple[list[Example], int]:
    """Return the examples whose chat has at most `limit` tokens by `length`, and how many others were dropped."""
    kept = [example for example in examples if length(example.chat) <= limit]
    return kept, len(examples) - len(kept)


def split(examples: Sequence[Example], share: float, seed: int = 0) -> tuple[list[Example], list[Example]]:
    """Return (train, validation) with about `share` of the prompts in validation.

    All examples of one prompt (its first user turn, normalised) fall on one side, whatever else is in the list.
    """
    held = [_position(example.chat, seed) < share for example in examples]
    return (
        list(itertools.compress(examples, (not is_held for is_held in held))),
        list(itertools.compress(examples, held)),
    )


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore")
    role: str
    content: str


class PromptRow(BaseModel):
    """The part that every row has: messages that end with the user's turn, as `rows.read` finds them."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    prompt: str | list[_Message]

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if not self.prompt or (isinstance(self.prompt, list) and self.prompt[-1].role != "user"):
            raise ValueError("prompt must end with the user's turn")
        return self

    def chat(self) -> Chat:
        if isinstance(self.prompt, str):
            return [Message(role="user", content=self.prompt)]
        return [Message(role=message.role, content=message.content) for message in self.prompt]


class _Row(PromptRow):
    chosen: str | None = None
    rejected: str | None = None
    response: str | None = None
    scores: dict[str, float] | None = None
    reference: str | None = None
    id: str | int | None = None
    source: str | None = None
    check: CheckSettings | None = None
    draft: str | None = None
    model: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.chosen is None) != (self.rejected is None):
            raise ValueError("chosen and rejected go together")
        if self.scores is not None and self.response is None:
            raise ValueError("scores need the response that they belong to")
        return self


def _read(columns: Columns, place: str) -> dict[str, Any]:
    try:
        return read(columns)
    except ValueError as exc:
        raise DataError(f"{place}: {exc}") from exc


def _example(columns: Columns, path: Path, number: int) -> Example:
    known = {"id": columns.take("id", "prompt_id"), "source": columns.take("source")}
    known |= {name: columns.take(name) for name in ("check", "draft")}
    known |= {"model": columns.take("model")} if "draft" in columns.used else {}
    found = checked(_Row, known | _read(columns, f"{path}:{number}"), f"{path}:{number}")
    stem = path.name.partition(".")[0]
    pair = scores = None
    if found.chosen is not None and found.rejected is not None:
        pair = Pair(found.chosen, found.rejected)
    if found.response is not None:
        scores = Scores(found.response, found.scores or {})
    name = f"{stem}-{number}" if found.id is None else str(found.id)
    return Example(
        found.chat(),
        pair,
        scores,
        found.reference or "",
        id=name,
        source=found.source or stem,
        check=found.check,
        draft=found.draft,
        model=found.model or "",
    )


def _tasks(settings: DataSettings) -> Mapping[str, Row]:
    """Return the tasks by the name by which rows of drafts refer to them."""
    if settings.tasks is None:
        return {}
    key = TASK_KEYS[settings.format]
    return {str(row[key]): row for _, row in read_rows(settings.tasks) if key in row}


def _matches(row: Row, where: Mapping[str, Value | tuple[Value, ...]]) -> bool:
    return all(
        key in row and row[key] in (wanted if isinstance(wanted, tuple) else (wanted,)) for key, wanted in where.items()
    )


def _names(settings: DataSettings) -> str:
    return ", ".join([*map(str, settings.files), *(source.name for source in settings.hub)])


_PARTS: Final = "parts"  # this order is unlike that of any seed, so that `split` cuts through the whole of a part


def _position(chat: Chat, seed: int | str) -> float:
    """Return a number in [0, 1) that depends on the seed and on the first user turn's letters and digits alone."""
    first = next((message["content"] for message in chat if message["role"] == "user"), "")
    folded = unicodedata.normalize("NFKC", first).lower()
    letters = "".join(letter for letter in folded if letter.isalnum())
    digest = hashlib.sha256(f"{seed}:{letters}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
