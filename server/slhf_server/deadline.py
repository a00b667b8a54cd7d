"""A request's deadline, which may come closer while it runs (graceful shutdown)."""

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable
from contextvars import ContextVar
from typing import Generic, TypeVar

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

    def time_left(self) -> float:
        """Seconds, negative where it has passed."""
        return self._at - asyncio.get_running_loop().time()

    def bring_forward(self, at: float) -> None:
        """Make the deadline `at`, if that is sooner; whoever waits now is woken then."""
        self._at = min(self._at, at)
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(self._at)

    def check(self) -> None:
        """Raises DeadlineExceeded once it has passed."""
        if self.time_left() <= 0:
            raise DeadlineExceeded(_PASSED)

    async def wait_for(self, awaitable: Awaitable[T]) -> T:
        """Await it; raises DeadlineExceeded once the deadline has passed."""
        _awaited_with.set(self)
        try:
            async with asyncio.timeout_at(self._at) as self._waiting:
                return await awaitable
        except TimeoutError as exc:
            if self._waiting is None or not self._waiting.expired():
                raise  # the source's own
            raise DeadlineExceeded(_PASSED) from exc
        finally:
            self._waiting = None
            _awaited_with.set(None)

    def within(self, items: AsyncGenerator[T, None]) -> "Within[T]":
        """The items, closed at their end; raises DeadlineExceeded when it passes while waiting for the next."""
        return Within(self, items)


class Within(Generic[T]):
    """An async iterator, and no generator: every token passes here.

    The timeout never spans a yield: it must cancel the waiting for an item, not its consumer's work (PEP 789).
    """

    def __init__(self, deadline: Deadline, items: AsyncGenerator[T, None]) -> None:
        self._deadline = deadline
        self._items = items

    def __aiter__(self) -> "Within[T]":
        return self

    async def __anext__(self) -> T:
        try:
            return await self._deadline.wait_for(anext(self._items))
        except BaseException:  # the end, the deadline, a failure, or nobody waits any more
            await self.aclose()
            raise

    async def aclose(self) -> None:
        await self._items.aclose()


_awaited_with: ContextVar["Deadline | None"] = ContextVar("awaited_with", default=None)


def time_left() -> float:
    """Seconds until the deadline that the running code is awaited with has passed; infinity where there is none.

    It tells code that is cancelled whether that was for the deadline (0 or less) or for a client that went away.
    """
    deadline = _awaited_with.get()
    return math.inf if deadline is None else deadline.time_left()
