"""Which of the finished texts is the best so far, by the judge; without one, the latest is.

The draft is the first. A later text has to win against the best before it, and where the judge abstains or fails, that
one stays.
"""

from collections.abc import Sequence

from slhf.wire import Round, RoundJudged, Selection, Usage
from slhf_server.refinement.comparison import Comparison, Judged
from slhf_server.refinement.job import Job
from slhf_server.refinement.standing import Standing


class Trajectory:
    """A refinement's verdicts."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._judging = job.judging
        self._best = 0
        self.usage = Usage()
        """Of all verdicts together."""
        self._events: dict[int, RoundJudged] = {}
        self._known: set[int] = set()
        """Rounds of which it is known how they compare with the best before them."""

    async def comparison(self, rounds: Sequence[Round], left: int) -> Comparison | None:
        """What the judge is to compare after the latest of these rounds, with so many tokens left; None: nothing."""
        latest, judging, structure = rounds[-1], self._judging, self._job.structure
        if judging is None or latest.round == 0 or (latest.round == self._job.rounds and not judging.selects):
            return None
        old = rounds[self._best].text
        before = rounds[-2]
        if latest.text == old or (latest.text == before.text and before.round in self._known):
            self._known.add(latest.round)  # what is known of the same text holds
            return None
        if self._best == 0 and structure is not None and not await structure.admits(old):
            self._best = latest.round  # there is no going back to a draft that is no valid answer
            self._known.add(latest.round)
            return None
        if judging.judge.tokens(judging.turns, old, latest.text) >= left:
            return None
        return Comparison(judging, old, latest.text, self._best, latest.round)

    def take(self, judged: Judged) -> RoundJudged:
        """Note what came of a comparison."""
        asked, verdict = judged.asked, judged.verdict
        number, against = asked.round, asked.against
        event = RoundJudged(
            round=number,
            against=against,
            judge=asked.judging.judge.name,
            p=None if verdict is None else verdict.p,
            consistent=None if verdict is None else verdict.consistent,
            failed=verdict is None,
            usage=Usage()
            if verdict is None
            else Usage.of(verdict.prompt_tokens, verdict.completion_tokens, cached=verdict.cached_tokens),
            latency_ms=judged.seconds * 1e3,
        )
        self._events[number] = event
        self.usage += event.usage
        if not event.failed:
            self._known.add(number)
        if event.p is not None and event.p >= asked.judging.margin:
            self._best = number
        return event

    @property
    def events(self) -> tuple[RoundJudged, ...]:
        """All that was said, in the order of the rounds."""
        return tuple(self._events.values())

    def answer(self, latest: int) -> int:
        """The round whose text is the answer."""
        return self._best if self._judging is not None and self._judging.selects else latest

    def standing(self, rounds: Sequence[Round]) -> Standing:
        number = rounds[-1].round
        event = self._events.get(number)
        return Standing(rounds, self.answer(number), number in self._known, None if event is None else event.p)

    def report(self, latest: int) -> Selection | None:
        if self._judging is None:
            return None
        events = [self._events.get(number) for number in range(1, latest + 1)]
        return Selection(
            judge=self._judging.judge.name,
            round=self.answer(latest),
            p=[None if event is None else event.p for event in events],
            consistent=[None if event is None else event.consistent for event in events],
        )
