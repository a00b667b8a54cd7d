"""All answers of an evaluation: other models' drafts, and what was generated, kept on disk as it comes.

What is finished is never generated again. An answer is known by who wrote it (its model's fingerprint: weights and
sampling), the chain, the prompt, the sample and the text that it refines; so a run goes on where it was killed, and a
model that has changed does not inherit the answers of its predecessor.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from slhf_training.evaluation.chains import Chain, label
from slhf_training.evaluation.store import Store
from slhf_training.types import digest

Finish = Literal["stop", "length", "kept", "refused"]
"""`length`: cut at the limit of tokens. `kept`: the Follower wrote nothing or had no room, so the text before it
stands, as the server answers. `refused`: there is no text: the conversation finds no room, or nobody gave a draft."""


@dataclass(frozen=True, slots=True)
class Answer:
    text: str | None
    finish: Finish = "stop"
    tokens: int | None = field(default=None, compare=False)
    """Generated for it; None: not counted."""


NONE = Answer(None, "refused")
GIVEN = "given"
"""Who wrote the drafts that come with the data: a prompt that has one knows it, so that a chain may start with it."""


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
        """None where there is none. All must be written."""
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
