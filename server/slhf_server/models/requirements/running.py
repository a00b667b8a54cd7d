"""Runs programs that clients and models wrote, a few at once, without holding up anybody else."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from slhf.sandbox import SECONDS, Outcome, confined_by, outcome

_AT_ONCE = 2
"""Programs that run at once: each may take a core and a gigabyte for as long as it is let."""
_START_S = 1.0
"""What a process takes to start on a busy machine, and some more."""
_logger = logging.getLogger(__name__)


class Sandbox:
    """The kernel's walls around a program, and the threads that wait at them: none of those that others need."""

    def __init__(self, seconds: float = SECONDS) -> None:
        """`seconds`: of a program. Raises SandboxError where this host cannot hold a program back."""
        confined_by()
        self._seconds = seconds
        self._outcome = partial(outcome, seconds=seconds, file_bytes=0)
        self._waiting = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="slhf-sandbox")

    async def outcomes(self, programs: Sequence[Sequence[str]]) -> list[Outcome | None]:
        """How each program ended, which is the parts that run one after the other.

        None: it was not run, because others that never end had the places for as long as these programs may take twice.
        """
        turns = 1 + -(-len(programs) // _AT_ONCE)
        patience_s = turns * (self._seconds + _START_S)
        return await asyncio.gather(*(self._ended(program, patience_s) for program in programs))

    async def _ended(self, program: Sequence[str], patience_s: float) -> Outcome | None:
        try:
            async with asyncio.timeout(patience_s):
                return await asyncio.get_running_loop().run_in_executor(self._waiting, self._outcome, program)
        except TimeoutError:
            _logger.warning("a program was not run on its prompt's examples: the sandbox is busy")
        except Exception:
            _logger.exception("a program was not run on its prompt's examples")
        return None
