"""A circuit breaker, which leaves an upstream alone that only fails."""

from collections.abc import Callable


class CircuitBreaker:
    """It is closed until `failures` attempts in a row have failed, and then open.

    While it is open, one attempt is admitted each `cooldown_s` seconds (half-open), whose success closes the breaker.
    An attempt that its client abandons says nothing; the next one is then admitted a cooldown later.
    """

    def __init__(self, failures: int, cooldown_s: float, clock: Callable[[], float]) -> None:
        self._most_failures = failures
        self._cooldown_s = cooldown_s
        self._clock = clock
        self._failures = 0
        self._next_attempt = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= self._most_failures

    @property
    def refuses(self) -> bool:
        """Whether it would admit no attempt now."""
        return self.is_open and self._next_attempt > self._clock()

    def admit(self) -> float:
        """Seconds until an attempt may be admitted; 0: this one is."""
        if not self.is_open:
            return 0.0
        wait = self._next_attempt - self._clock()
        if wait > 0:
            return wait
        self._wait_again()
        return 0.0

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        self._wait_again()

    def _wait_again(self) -> None:
        self._next_attempt = self._clock() + self._cooldown_s
