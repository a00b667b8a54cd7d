"""All answers of an evaluation: other models' drafts, and what was generated, kept on disk as it comes.

What is finished is never generated again. An answer is known by who wrote it (its model's fingerprint: weights and
sampling), the chain, the prompt, the sample and the text that it refines; so a run goes on where it was killed, and a
model that has changed does not inherit the answers of its predecessor.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator

from slhf_training.errors import DataError
from slhf_training.types import digest

Record = dict[str, Any]


class Store:
    """Records by their `key`; of two with one key the later counts. A torn last line is cut off first."""

    def __init__(self, path: Path) -> None:
        """Raises DataError for a file that is no store."""
        self._records: dict[str, Record] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._read(path) if path.exists() else 0
        self._file = path.open("ab")
        self._file.truncate(whole)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            os.fsync(self._file.fileno())

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: str) -> Record | None:
        return self._records.get(key)

    def _read(self, path: Path) -> int:
        """The bytes of whole lines."""
        whole = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n"):
                    record = _record(line, f"{path}:{number}")
                    self._records[record["key"]] = record
                    whole += len(line)
        return whole

    def append(self, record: Record) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        self._file.flush()
        self._records[record["key"]] = record


def _record(line: bytes, place: str) -> Record:
    try:
        record = json.loads(line)
        str(record["key"])
    except (ValueError, TypeError, KeyError) as exc:
        raise DataError(f"{place}: not a record of an evaluation: {exc}") from exc
    return dict(record)


Chain = tuple[str, ...]


def _a_chain(text: str) -> str:
    if not all(parsed(text)):
        raise ValueError("a model's name is missing beside '>'")
    return text


ChainLabel = Annotated[str, AfterValidator(_a_chain)]
"""A chain in configurations: a model's name, or names joined by ">", each of which refines the text before it."""


def parsed(text: str) -> Chain:
    return tuple(name.strip() for name in text.split(">"))


def label(chain: Chain) -> str:
    return " > ".join(chain)


def file_name(chain: Chain) -> str:
    """A label for folders."""
    return "--".join(name.replace("/", "_") for name in chain)


def refined(leader: str, follower: str, rounds: int) -> Chain:
    return (leader, *[follower] * rounds)


def with_drafts(chains: Iterable[Chain]) -> list[Chain]:
    """The chains and all they build on, drafts first, each once."""
    found = {chain[:length]: None for chain in chains for length in range(1, len(chain) + 1)}
    return sorted(found, key=len)


Finish = Literal["stop", "length", "kept", "refused"]
"""How an answer ended. `length`: it was cut at the limit of tokens. `kept`: the Follower wrote nothing or had no room,
so the text before it stands, as the server answers. `refused`: there is no text, because the conversation has no room
or there was no draft."""


@dataclass(frozen=True, slots=True)
class Answer:
    text: str | None
    finish: Finish = "stop"
    tokens: int | None = field(default=None, compare=False)
    """Generated for it; None: not counted."""


NONE = Answer(None, "refused")
GIVEN = "given"
"""The writer of drafts that come with the data, with which a chain may start where the prompt has one."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where an answer belongs."""

    chain: Chain
    prompt: str
    """The prompt's id."""
    sample: int = 0
    """Which of several independent answers."""

    @property
    def before(self) -> "Slot | None":
        """What it refines; None: it answers the prompt."""
        return Slot(self.chain[:-1], self.prompt, self.sample) if len(self.chain) > 1 else None

    @property
    def after(self) -> "Slot":
        """The next round of the same model."""
        return Slot((*self.chain, self.chain[-1]), self.prompt, self.sample)


class Answers:
    def __init__(
        self, store: Store, fingerprints: Mapping[str, str], drafts: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        """`fingerprints`: of each model that generates. `drafts`: by model and prompt id, of those that do not."""
        self._store, self._fingerprints, self._drafts = store, fingerprints, drafts or {}
        self._known: dict[Slot, Answer] = {}

    def get(self, slot: Slot) -> Answer | None:
        """None: not written yet."""
        if slot not in self._known:
            found = self._find(slot)
            if found is None:
                return None
            self._known[slot] = found
        return self._known[slot]

    def put(self, slot: Slot, answer: Answer) -> None:
        """Kept on disk when this returns. What it refines must be known."""
        draft = None if slot.before is None else self._known[slot.before].text
        record = {
            "key": self._key(slot, draft),
            "model": slot.chain[-1],
            "round": len(slot.chain) - 1,
            "draft_of": label(slot.chain[:-1]),
            "prompt": slot.prompt,
            "sample": slot.sample,
            "finish": answer.finish,
            "tokens": answer.tokens,
            "text": answer.text,
        }
        self._store.append(record)
        self._known[slot] = answer

    def texts(self, slots: Iterable[Slot]) -> list[str | None]:
        """The texts of these answers, all of which must be written; None where one has none."""
        return [self._known[slot].text if self.get(slot) else None for slot in slots]

    def writer(self, slot: Slot) -> str:
        """The fingerprint of the model that writes it."""
        return self._fingerprints[slot.chain[-1]]

    def _find(self, slot: Slot) -> Answer | None:
        if slot.chain[0] in self._drafts and slot.before is None:
            text = self._drafts[slot.chain[0]].get(slot.prompt)
            return NONE if text is None else Answer(text)
        draft = None
        if slot.before is not None:
            before = self.get(slot.before)
            if before is None or before.text is None:
                return None if before is None else NONE
            draft = before.text
        record = self._store.get(self._key(slot, draft))
        return None if record is None else Answer(record["text"], record["finish"], record.get("tokens"))

    def _key(self, slot: Slot, draft: str | None) -> str:
        return digest([self.writer(slot), slot.chain, slot.prompt, slot.sample, draft])
