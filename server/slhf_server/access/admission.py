"""How many refinements run at once, and how many may wait for a place."""

import asyncio
import heapq
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from itertools import count

from slhf_server.deadline import Deadline
from slhf_server.errors import DeadlineExceeded, QueueFull

_Turn = tuple[int, int, asyncio.Future[None]]
"""Priority, number of arrival, and what is set when the place is given."""


class Admission:
    """A bounded queue in front of a bounded number of places. Of those who wait, the lowest priority is next, and among
    equals who came first."""

    def __init__(self, running: int, waiting: int) -> None:
        self._free = running
        self._most_waiting = waiting
        self._queue: list[_Turn] = []
        self._arrivals = count()
        self.running: Counter[str] = Counter()
        """Refinements at work, by served model."""
        self.waiting: Counter[str] = Counter()

    @asynccontextmanager
    async def place(self, model: str, deadline: Deadline, priority: int = 0) -> AsyncGenerator[None, None]:
        """Wait for a place and hold it. Raises QueueFull at once when too many wait already, whatever their priority.

        A request whose deadline passes in the queue goes on without a place: its refinement then ends at once, and
        knows better what to answer (the client's draft, or the error).
        """
        if not self._free and self.waiting.total() >= self._most_waiting:
            raise QueueFull(f"{self.waiting.total()} requests are waiting already; try again later")
        if held := self._free > 0:
            self._free -= 1
        else:
            held = await self._wait(model, deadline, priority)
        self.running[model] += 1
        try:
            yield
        finally:
            self.running[model] -= 1
            if held:
                self._give_back()

    async def _wait(self, model: str, deadline: Deadline, priority: int) -> bool:
        """Whether a place was given before the deadline."""
        self.waiting[model] += 1
        try:
            with closing(deadline):
                await deadline.wait_for(self._take(priority))
            return True
        except DeadlineExceeded:
            return False
        finally:
            self.waiting[model] -= 1

    async def _take(self, priority: int) -> None:
        turn: _Turn = (priority, next(self._arrivals), asyncio.get_running_loop().create_future())
        heapq.heappush(self._queue, turn)
        try:
            await turn[2]
        except asyncio.CancelledError:
            if not turn[2].cancelled():  # the place was on its way
                self._give_back()
            elif turn in self._queue:
                self._queue.remove(turn)
                heapq.heapify(self._queue)
            raise

    def _give_back(self) -> None:
        """Hand the place to who is next, so that nobody who comes just then takes it."""
        while self._queue:
            _, _, given = heapq.heappop(self._queue)
            if not given.done():  # else it is cancelled, and has not run since
                return given.set_result(None)
        self._free += 1
