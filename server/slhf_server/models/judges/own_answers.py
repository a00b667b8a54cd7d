"""The loaded Leader as a judge by what it answers itself: several answers that know neither text, and a count.

A small model says badly which of two texts is better, and finds the right result more often than any other. So nobody
asks it: where two texts state different results, the one that more of its own answers give is the better one
(slhf/readings.py). Where they state the same result or none that a program sees, or no own answer gives either, it
abstains.
"""

from collections.abc import Sequence

from slhf.readings import better_by, different_results
from slhf_server.models.base import ChatModel, Chunk, SamplingParams, Turn
from slhf_server.models.judge import Verdict, about_tokens, salt_of
from slhf_server.models.whole import answer_of, at_once, whole
from slhf_server.settings.judging import OwnAnswersSettings


class OwnAnswersJudge:
    """Implements `Judge`."""

    def __init__(self, name: str, leader: ChatModel, how: OwnAnswersSettings) -> None:
        self.name = name
        self._leader = leader
        self._how = how

    async def compare(
        self, turns: Sequence[Turn], old: str, new: str, *, request_id: str, priority: int = 0
    ) -> Verdict:
        if different_results(old, new) is None:
            return Verdict(None)
        written = await self._written(turns, request_id=request_id, priority=priority)
        own = [answer.text for completion in written if (answer := answer_of(completion)) is not None]
        return Verdict.of(better_by(own, old, new), None, written)

    def tokens(self, turns: Sequence[Turn], old: str, new: str) -> int:
        """Of answers as long as they may be; 0 where there is nothing to compare."""
        each = about_tokens(*(turn.text for turn in turns)) + self._how.max_tokens
        return 0 if different_results(old, new) is None else self._how.count * each

    async def _written(self, turns: Sequence[Turn], *, request_id: str, priority: int = 0) -> list[Chunk]:
        """The own answers, all at once, with the same noise for every request: a verdict is to be repeatable."""
        return await at_once(
            whole(
                self._leader,
                turns,
                SamplingParams(
                    temperature=self._how.temperature,
                    max_tokens=self._how.max_tokens,
                    seed=number,
                    priority=priority,
                    cache_salt=salt_of(request_id),
                ),
                f"{request_id}-{number}",
            )
            for number in range(self._how.count)
        )
