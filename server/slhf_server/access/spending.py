"""What an API key has spent: since this process began, and on this day of UTC."""

import math
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta

Now = Callable[[], datetime]
"""The time of the wall clock, in UTC."""


def utc_now() -> datetime:
    return datetime.now(UTC)


class Spending:
    """Counters of one key. Tokens are those of prompts and completions together, as `usage` has them."""

    def __init__(self, now: Now = utc_now) -> None:
        self._now = now
        self._day = now().date()
        self._of_the_day = 0
        self.requests = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0

    def add(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count a request with its tokens, on the day on which it ended."""
        self._of_the_day = self.today + prompt_tokens + completion_tokens
        self._day = self._now().date()
        self.requests += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens

    @property
    def today(self) -> int:
        """Tokens since midnight."""
        return self._of_the_day if self._day == self._now().date() else 0

    @property
    def day(self) -> str:
        """This day of UTC, as `2026-11-29`."""
        return self._now().date().isoformat()

    @property
    def seconds_left(self) -> int:
        """Until the day's midnight, at least 1."""
        now = self._now()
        midnight = datetime.combine(now.date() + timedelta(days=1), time(), UTC)
        return max(1, math.ceil((midnight - now).total_seconds()))
