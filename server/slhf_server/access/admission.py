"""How many refinements run at once, and how many may wait for a place."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from slhf_server.deadline import Deadline
from slhf_server.errors import DeadlineExceeded, QueueFull


class Admission:
    """A bounded queue in front of a bounded number of places."""

    def __init__(self, running: int, waiting: int) -> None:
        self._places = asyncio.Semaphore(running)
        self._most_waiting = waiting
        self.running: Counter[str] = Counter()
        """Refinements at work, by served model."""
        self.waiting: Counter[str] = Counter()

    @asynccontextmanager
    async def place(self, model: str, deadline: Deadline) -> AsyncGenerator[None, None]:
        """Wait for a place and hold it. Raises QueueFull at once when too many wait already.

        A request whose deadline passes in the queue goes on without a place: its refinement then ends at once, and
        knows better what to answer (the client's draft, or the error).
        """
        if self._places.locked() and self.waiting.total() >= self._most_waiting:
            raise QueueFull(f"{self.waiting.total()} requests are waiting already; try again later")
        self.waiting[model] += 1
        try:
            await deadline.wait_for(self._places.acquire())
            held = True
        except DeadlineExceeded:
            held = False
        finally:
            self.waiting[model] -= 1
        self.running[model] += 1
        try:
            yield
        finally:
            self.running[model] -= 1
            if held:
                self._places.release()
