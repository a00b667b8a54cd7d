"""Reports each test during which an event loop stood still: any loop, those of `asyncio.run` and of threads too.

A loop stands still while it runs one callback, or one step of a task, so these are timed. What the loop's thread waited
for a processor is taken off (the second figure of its schedstat, where there is one): a busy machine is no fault.
It is a report, not a failure: below the limit of a second or so, the machine has a say in it.
"""

import threading
import time
from asyncio.events import Handle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MOST_S = 0.2
_FRESH_S = 0.02  # how old the figure from before a callback may be: reading it for each one would slow all of them
_FOUND: pytest.StashKey[list[str]] = pytest.StashKey()


class _Delay(threading.local):
    """What this thread had waited for a processor, and when that was read. Seconds."""

    read = float("-inf")
    seconds = 0.0

    def refresh(self, now: float) -> float:
        before, self.read = self.seconds, now
        schedstat = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self.seconds = int(schedstat.read_text().split()[1]) / 1e9 if schedstat.exists() else 0.0
        return self.seconds - before


@contextmanager
def watching(most_s: float = MOST_S, clock: Callable[[], float] = time.perf_counter) -> Iterator[list[str]]:
    """What stood still meanwhile, a line for each callback of more than `most_s` seconds.

    By `time.thread_time` only what the loop's own thread computed counts, not what it waited for another thread's lock.
    """
    found: list[str] = []
    delay, run = _Delay(), Handle._run

    def timed(handle: Handle) -> None:
        before = clock()
        if clock is time.perf_counter and before - delay.read > _FRESH_S:
            delay.refresh(before)
        run(handle)
        now = clock()
        waited = delay.refresh(now) if clock is time.perf_counter and now - before > most_s else 0.0
        if (stood := now - before - waited) > most_s:
            found.append(f"{stood:.2f} s in {repr(handle)[:200]}")

    Handle._run = timed  # type: ignore[method-assign, assignment]
    try:
        yield found
    finally:
        Handle._run = run  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def event_loops_keep_running(request: pytest.FixtureRequest) -> Iterator[None]:
    """Not of tests with the real engine, which runs in the loop's own process on a CPU."""
    if request.node.get_closest_marker("engine"):
        yield
        return
    with watching() as found:
        yield
    lines = [f"{request.node.nodeid}: {line}" for line in found]
    request.config.stash.setdefault(_FOUND, []).extend(lines)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if found := config.stash.get(_FOUND, []):
        terminalreporter.section(f"event loops stood still for more than {MOST_S} s", yellow=True)
        terminalreporter.write("\n".join([*found, ""]))
