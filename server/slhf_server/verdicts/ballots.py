"""The latest refinements, so that somebody may vote on their texts. Of a text its digest is remembered and its length.

Only with `log_content` the texts are, too. A refinement is forgotten when others have come after it, or at a restart.
"""

from collections import OrderedDict
from dataclasses import dataclass

from slhf.verdicts import Outcome, VoteRequest
from slhf.wire import DraftSource
from slhf_server.errors import BadRequest, RefinementNotFound
from slhf_server.models.base import Turn
from slhf_server.refinement.job import Job
from slhf_server.refinement.state import RefinementResult
from slhf_server.verdicts.record import Record, Text, messages_of

MOST = 4_096
"""Refinements (docs/api.md)."""
MOST_CHARACTERS = 16 << 20
"""Of their texts, where these are kept."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """One refinement with its finished rounds, the draft first."""

    model: str
    revision: str
    key: str | None
    draft_source: DraftSource
    returned: int
    texts: tuple[Text, ...]
    edit_ratios: tuple[float | None, ...]
    """Of each text and the one before it."""
    turns: tuple[Turn, ...]
    """The conversation; empty where no texts are kept."""

    @property
    def characters(self) -> int:
        kept = (*(turn.text for turn in self.turns), *(text.content or "" for text in self.texts))
        return sum(map(len, kept))

    def record(self, request: VoteRequest, now: float) -> Record:
        """The vote as a verdict on the later of its two rounds. Raises BadRequest for these."""
        a, b = request.a, self.returned if request.b is None else request.b
        for name, number in (("a", a), ("b", b)):
            if number >= len(self.texts):
                raise BadRequest(f"round {number}: the refinement has {len(self.texts) - 1} rounds", param=name)
        if self.texts[a].sha256 == self.texts[b].sha256:
            raise BadRequest(f"rounds {a} and {b} are the same text", param="b")
        earlier, later = sorted((a, b))
        outcome: Outcome
        if request.vote in ("tie", "both_bad"):
            outcome = request.vote
        else:
            outcome = "win" if (request.vote == "b") == (b == later) else "loss"
        return Record(
            refinement=request.id,
            source="vote",
            outcome=outcome,
            model=self.model,
            revision=self.revision,
            judge="",
            key=self.key,
            draft_source=self.draft_source,
            draft=self.texts[earlier],
            refined=self.texts[later],
            created=now,
            edit_ratio=self.edit_ratios[later] if later == earlier + 1 else None,
            messages=messages_of(self.turns) if self.turns else None,
        )


class Ballots:
    """What can be voted on, by its API key and the refinement's id; of a key's several with one id the latest.

    Clients choose ids, so no key's refinement may push out another key's.
    """

    def __init__(self, *, keep_texts: bool) -> None:
        self._keep_texts = keep_texts
        self._known: OrderedDict[tuple[str | None, str], Ballot] = OrderedDict()
        self._characters = 0

    def remember(self, job: Job, result: RefinementResult, revision: str, key: str | None) -> None:
        """Remember a refinement whose rounds can be told apart, unless its client wants nothing kept."""
        rounds = result.refinement.rounds
        if job.no_store or job.choice or len(rounds) < 2 or not result.refinement.applied:
            return
        ballot = Ballot(
            model=job.model,
            revision=revision,
            key=key,
            draft_source=job.draft_source,
            returned=result.refinement.returned_round,
            texts=tuple(Text.of(text, keep=self._keep_texts) for text in result.texts),
            edit_ratios=tuple(one.edit_ratio for one in rounds),
            turns=job.turns if self._keep_texts else (),
        )
        self._forget((key, job.id))
        self._known[key, job.id] = ballot
        self._characters += ballot.characters
        while len(self._known) > MOST or (self._characters > MOST_CHARACTERS and len(self._known) > 1):
            self._forget(next(iter(self._known)))

    def of(self, refinement: str, key: str | None) -> Ballot:
        """What a key may vote on. Raises RefinementNotFound: another key's id is not told from an unknown one."""
        ballot = self._known.get((key, refinement))
        if ballot is None:
            message = "no refinement of that id can be voted on: it is not known here, not this key's, or too long ago"
            raise RefinementNotFound(message, param="id")
        return ballot

    def _forget(self, known: tuple[str | None, str]) -> None:
        if (ballot := self._known.pop(known, None)) is not None:
            self._characters -= ballot.characters
