"""One verdict as it is kept: who was compared, what came of it, and of the texts no more than may be kept."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from slhf.verdicts import Outcome, Source
from slhf.wire import DraftSource
from slhf_server.models.base import Turn
from slhf_server.models.judge import Verdict
from slhf_server.refinement.job import Job
from slhf_server.refinement.state import RefinementResult

SAME = Verdict(p=0.5)
"""Of a text and itself; nobody needs to be asked."""


@dataclass(frozen=True, slots=True)
class Text:
    """What is known of a text."""

    words: int
    characters: int
    sha256: str
    content: str | None
    """None where nothing may be kept of it but the above."""

    @classmethod
    def of(cls, text: str, *, keep: bool) -> "Text":
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return cls(len(text.split()), len(text), digest, text if keep else None)


@dataclass(frozen=True, slots=True)
class Record:
    """A verdict on two texts of one refinement; `draft` is the one that was there before `refined`."""

    refinement: str
    """The refinement's id, as its client knows it."""
    source: Source
    outcome: Outcome
    model: str
    revision: str
    judge: str
    """Its name in the settings; empty for a person."""
    key: str | None
    """The name of the API key with which the refinement was asked for."""
    draft_source: DraftSource
    draft: Text
    refined: Text
    created: float
    """Unix seconds."""
    edit_ratio: float | None = None
    p: float | None = None
    consistent: bool | None = None
    refine_tokens: int = 0
    judge_tokens: int = 0
    messages: Sequence[dict[str, Any]] | None = None
    """The conversation; None as with `Text.content`."""


def outcome_of(verdict: Verdict) -> Outcome:
    """What a judge's verdict says of the refined text. Two orders that contradict each other are a tie."""
    if verdict.p is None:
        return "tie" if verdict.consistent is False else "abstained"
    return "win" if verdict.p > 0.5 else "loss" if verdict.p < 0.5 else "tie"


def selected(job: Job, result: RefinementResult, revision: str, now: float) -> Iterator[Record]:
    """What a judge has said of a request's rounds while it chose among them, with the texts."""
    rounds, texts = result.refinement.rounds, result.texts
    for judged in () if job.no_store else result.judged:
        if judged.failed:
            continue
        yield Record(
            refinement=job.id,
            source="select",
            outcome=outcome_of(Verdict(judged.p, judged.consistent)),
            model=job.model,
            revision=revision,
            judge=judged.judge,
            key=job.log.get("key"),
            draft_source=job.draft_source,
            draft=Text.of(texts[judged.against], keep=True),
            refined=Text.of(texts[judged.round], keep=True),
            created=now,
            edit_ratio=rounds[judged.round].edit_ratio if judged.against == judged.round - 1 else None,
            p=judged.p,
            consistent=judged.consistent,
            judge_tokens=judged.usage.total_tokens,
            messages=messages_of(job.turns),
        )


def messages_of(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The conversation as the Follower saw it, in chat's shape."""
    return [{"role": turn.role, "content": turn.text} for turn in turns]
