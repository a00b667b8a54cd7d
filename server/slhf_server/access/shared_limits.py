"""API keys' limits that replicas have in common, in Redis or Valkey, by the library `limits`.

A store that does not answer is left alone for a while. Whoever asks is then told nothing, and counts by itself.
"""

import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as BrokenConnection
from redis.exceptions import RedisError

T = TypeVar("T")
_PREFIX = "slhf"
_ANSWER_S = 0.5
"""A request waits so long for the store, and no longer."""
_AWAY_S = 5.0
_KEPT_S = 2 * 86_400
"""A day's tokens are of use until midnight, wherever it is."""
_logger = logging.getLogger(__name__)


class SharedLimits:
    """Rates and days' tokens by the key's name. A method's None says that the store is away."""

    def __init__(self, url: str, failed: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        """`failed` is called for each question that the store does not answer. Raises ValueError for a bad address."""
        self._pool: ConnectionPool = ConnectionPool.from_url(
            url,
            socket_timeout=_ANSWER_S,
            socket_connect_timeout=_ANSWER_S,
            retry=Retry(NoBackoff(), 1, supported_errors=(BrokenConnection,)),  # one that has lain idle may be closed
        )
        pooled: dict[str, Any] = {"connection_pool": self._pool}  # the library's types forget it
        self._storage = RedisStorage("redis://", implementation="redispy", key_prefix=_PREFIX, **pooled)
        self._rates = MovingWindowRateLimiter(self._storage)
        self._failed = failed
        self._clock = clock
        self._away = False
        self._left_alone_until = -math.inf

    async def take(self, name: str, per_minute: int) -> float | None:
        """Count a request, if the last minute has room for it: 0, or the seconds until it will."""
        return await self._asked(lambda: self._take(name, RateLimitItemPerMinute(per_minute)))

    async def tokens(self, name: str, day: str) -> int | None:
        """What all replicas together have booked on a day."""
        return await self._asked(lambda: self._storage.get(_of_the_day(name, day)))

    async def book(self, name: str, day: str, tokens: int) -> None:
        """Add tokens to a day's; they are lost to the others where the store is away."""
        await self._asked(lambda: self._storage.incr(_of_the_day(name, day), _KEPT_S, tokens))

    async def close(self) -> None:
        await self._pool.aclose()

    async def _take(self, name: str, item: RateLimitItemPerMinute) -> float:
        if await self._rates.hit(item, name):
            return 0.0
        free_at = (await self._rates.get_window_stats(item, name)).reset_time
        return max(1.0, free_at - time.time())

    async def _asked(self, question: Callable[[], Awaitable[T]]) -> T | None:
        if self._clock() < self._left_alone_until:
            self._failed()
            return None
        try:
            answer = await question()
        except (RedisError, OSError) as exc:
            self._failed()
            if not self._away:
                _logger.warning("limits.store does not answer (%s): limits count by replica", type(exc).__name__)
            self._away, self._left_alone_until = True, self._clock() + _AWAY_S
            return None
        if self._away:
            self._away = False
            _logger.warning("limits.store answers again")
        return answer


def _of_the_day(name: str, day: str) -> str:
    return f"tokens/{name}/{day}"
