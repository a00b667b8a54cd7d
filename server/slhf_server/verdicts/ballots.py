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

    def pair(self, request: VoteRequest) -> tuple[int, int]:
        """The rounds that a vote calls a and b. Raises BadRequest for a round that is not there and for equal texts."""
        a, b = request.a, self._default_b() if request.b is None else request.b
        for name, number in (("a", a), ("b", b)):
            if number >= len(self.texts):
                raise BadRequest(f"round {number}: the refinement has {len(self.texts) - 1} rounds", param=name)
        if self.texts[a].sha256 == self.texts[b].sha256:
            raise BadRequest(f"rounds {a} and {b} are the same text", param="b")
        return a, b

    def _default_b(self) -> int:
        """The answer; where a judge kept the draft, the latest round with another text, which it declined."""
        latest = len(self.texts) - 1
        others = (number for number in range(latest, 0, -1) if self.texts[number].sha256 != self.texts[0].sha256)
        return self.returned or next(others, latest)

    def record(self, request: VoteRequest, a: int, b: int, now: float) -> Record:
        """The vote as a verdict on the later of the two rounds."""
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
        self._roundless: OrderedDict[tuple[str | None, str], None] = OrderedDict()
        """Apart from the others, which they may not push out: an agent's calls of tools are most of its requests."""

    def remember(self, job: Job, result: RefinementResult, revision: str, key: str | None) -> None:
        """Remember a refinement, and of one without rounds that it was there, unless its client wants nothing kept."""
        if job.no_store or job.choice:
            return
        name, rounds = (key, job.id), result.refinement.rounds
        self._forget(name)
        if len(rounds) < 2:
            self._roundless[name] = None
            if len(self._roundless) > MOST:
                self._roundless.popitem(last=False)
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
        self._known[name] = ballot
        self._characters += ballot.characters
        while len(self._known) > MOST or (self._characters > MOST_CHARACTERS and len(self._known) > 1):
            self._forget(next(iter(self._known)))

    def of(self, refinement: str, key: str | None) -> Ballot:
        """What a key may vote on. Raises BadRequest for a refinement without rounds, and RefinementNotFound: another
        key's id is not told from an unknown one."""
        if (key, refinement) in self._roundless:
            raise BadRequest("the refinement has no round but its draft: there is nothing to compare", param="id")
        ballot = self._known.get((key, refinement))
        if ballot is None:
            message = "no refinement of that id can be voted on: it is not known here, not this key's, or too long ago"
            raise RefinementNotFound(message, param="id")
        return ballot

    def _forget(self, known: tuple[str | None, str]) -> None:
        self._roundless.pop(known, None)
        if (ballot := self._known.pop(known, None)) is not None:
            self._characters -= ballot.characters
