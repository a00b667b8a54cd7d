"""A judge that says what a test wants, as fast as it is told."""

import asyncio
from collections.abc import Callable, Sequence

from slhf_server.models.base import Turn
from slhf_server.models.judge import Verdict

Opinion = Verdict | float | Exception | None
"""A verdict, its p alone, an error, or an abstention."""


class FakeJudge:
    """Implements `Judge`."""

    name = "house"

    def __init__(self, says: Callable[[str, str], Opinion], *, seconds: float = 0.0) -> None:
        """`says` gets the old text and the new one."""
        self.asked: list[tuple[str, str]] = []
        self.turns: list[Sequence[Turn]] = []
        self.ids: list[str] = []
        self.priorities: list[int] = []
        self.running = 0
        self._says = says
        self._seconds = seconds

    def tokens(self, turns: Sequence[Turn], old: str, new: str) -> int:
        return 2 * sum(map(len, (old, new, *(turn.text for turn in turns)))) // 4

    async def compare(
        self, turns: Sequence[Turn], old: str, new: str, *, request_id: str, priority: int = 0
    ) -> Verdict:
        self.asked.append((old, new))
        self.turns.append(turns)
        self.ids.append(request_id)
        self.priorities.append(priority)
        self.running += 1
        try:
            await asyncio.sleep(self._seconds)
        finally:
            self.running -= 1
        said = self._says(old, new)
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, Verdict) else Verdict(said, None if said is None else True, 20, 5, 2)
