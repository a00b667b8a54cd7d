"""Many answers at once."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from slhf_training.checks import Check
from slhf_training.checks.tests import UnitTests


def passed_all(checks: Sequence[Check], answers: Sequence[str]) -> list[bool]:
    """Whether each answer passes its check, (B,). Unit tests run as many at once as this process has cores.

    Raises SandboxError where unit tests cannot run on this host.
    """
    pairs = list(zip(checks, answers, strict=True))
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:  # each thread waits for a process
        running = {
            place: pool.submit(check.passed, answer)
            for place, (check, answer) in enumerate(pairs)
            if isinstance(check, UnitTests)
        }
        return [
            running[place].result() if place in running else check.passed(answer)
            for place, (check, answer) in enumerate(pairs)
        ]
