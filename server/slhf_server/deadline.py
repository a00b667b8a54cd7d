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
    """A point on the event loop's clock, in seconds. Whoever has waited for something by it calls `close` in the end.

    Its timer is set once, by the first wait, because every token is waited for.
    """

    def __init__(self, at: float) -> None:
        self._at = at
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Timeout | None = None

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        return cls(asyncio.get_running_loop().time() + seconds)

    def copy(self) -> "Deadline":
        """A deadline at the same point for another waiter, because a deadline wakes only one at a time."""
        return Deadline(self._at)

    def time_left(self) -> float:
        """Seconds until the deadline; negative once it has passed."""
        return self._at - asyncio.get_running_loop().time()

    def bring_forward(self, at: float) -> None:
        """Move the deadline to `at`, on the loop's clock, if that is sooner; a waiter is woken then."""
        self._at = min(self._at, at)
        if self._timer is not None:
            self.close()
            self._set_timer()

    def check(self) -> None:
        """Raises DeadlineExceeded once it has passed."""
        if self.time_left() <= 0:
            raise DeadlineExceeded(_PASSED)

    async def wait_for(self, awaitable: Awaitable[T]) -> T:
        """The awaitable's result. Raises DeadlineExceeded once the deadline has passed."""
        if self._timer is None:
            self._set_timer()
        _awaited_with.set(self)
        try:
            async with asyncio.timeout(None) as self._waiting:
                return await awaitable
        except TimeoutError as exc:
            if self._waiting is None or not self._waiting.expired():
                raise  # a TimeoutError of the awaitable itself
            raise DeadlineExceeded(_PASSED) from exc
        finally:
            self._waiting = None
            _awaited_with.set(None)

    def close(self) -> None:
        """Take the timer back. A later wait sets it again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_at(self._at, self._pass)

    def _pass(self) -> None:
        self._timer = None
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(self._at)

    def within(self, items: AsyncGenerator[T, None]) -> "Within[T]":
        """The items, closed at their end. Raises DeadlineExceeded where it passes while the next one is awaited."""
        return Within(self, items)


class Within(Generic[T]):
    """The items of `Deadline.within`. It is an iterator and no generator, because every token passes here.

    The timeout never spans a yield: it must cancel the wait for an item, not the work of its consumer (PEP 789).
    """

    def __init__(self, deadline: Deadline, items: AsyncGenerator[T, None]) -> None:
        self._deadline = deadline
        self._items = items

    def __aiter__(self) -> "Within[T]":
        return self

    async def __anext__(self) -> T:
        try:
            return await self._deadline.wait_for(anext(self._items))
        except BaseException:  # the end, the deadline, a failure, or a consumer that was cancelled
            await self.aclose()
            raise

    async def aclose(self) -> None:
        await self._items.aclose()


_awaited_with: ContextVar["Deadline | None"] = ContextVar("awaited_with", default=None)


def time_left() -> float:
    """Seconds until the deadline with which the running code is awaited; infinity where there is none.

    It tells cancelled code whether the deadline cancelled it (0 or less) or a client that went away.
    """
    deadline = _awaited_with.get()
    return math.inf if deadline is None else deadline.time_left()
