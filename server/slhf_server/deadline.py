"""A request's deadline, which may come closer while it runs (graceful shutdown)."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import TypeVar

from slhf_server.errors import DeadlineExceeded

T = TypeVar("T")
_PASSED = "the deadline passed before an answer was finished"


class Deadline:
    """A point on the event loop's clock, in seconds."""

    def __init__(self, at: float) -> None:
        self._at = at
        self._waiting: asyncio.Timeout | None = None

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        return cls(asyncio.get_running_loop().time() + seconds)

    def copy(self) -> "Deadline":
        """The same point, to be waited for elsewhere: a deadline wakes one waiter at a time."""
        return Deadline(self._at)

    def bring_forward(self, at: float) -> None:
        """Make the deadline `at`, if that is sooner; whoever waits now is woken then."""
        self._at = min(self._at, at)
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(self._at)

    def check(self) -> None:
        """Raises DeadlineExceeded once it has passed."""
        if asyncio.get_running_loop().time() >= self._at:
            raise DeadlineExceeded(_PASSED)

    async def wait_for(self, awaitable: Awaitable[T]) -> T:
        """Await it; raises DeadlineExceeded once the deadline has passed."""
        try:
            async with asyncio.timeout_at(self._at) as self._waiting:
                return await awaitable
        except TimeoutError as exc:
            if self._waiting is None or not self._waiting.expired():
                raise  # the source's own
            raise DeadlineExceeded(_PASSED) from exc
        finally:
            self._waiting = None

    async def within(self, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """Yield from `items`, closing it at the end; raises DeadlineExceeded when it passes while waiting for the next.

        The timeout never spans a yield: it must cancel this generator's waiting, not its consumer's work (PEP 789).
        """
        async with aclosing(items):
            while True:
                try:
                    item = await self.wait_for(anext(items))
                except StopAsyncIteration:
                    return
                yield item
