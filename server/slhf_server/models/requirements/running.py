"""Runs programs that clients and models wrote, a few at once, without holding up anybody else."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from slhf.errors import SandboxError
from slhf.sandbox import SECONDS, confined_by, ran

_AT_ONCE = 2
"""Programs that run at once: each may take a core and a gigabyte for as long as it is let."""
_logger = logging.getLogger(__name__)


class Sandbox:
    """The kernel's walls around a program, and the threads that wait at them: none of those that others need."""

    def __init__(self, seconds: float = SECONDS) -> None:
        """`seconds`: of a program. Behind many that never end, one that waits for as long again is not run.

        Raises SandboxError where this host cannot hold a program back.
        """
        confined_by()
        self._run = partial(ran, seconds=seconds)
        self._patience_s = 2 * seconds
        self._waiting = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="slhf-sandbox")

    async def passed(self, programs: Mapping[str, Sequence[str]]) -> dict[str, bool]:
        """Of each program, which is the parts that run one after the other, whether it came to its end.

        Those of which nothing is known are left out.
        """
        found = await asyncio.gather(*map(self._passed, programs.values()))
        return {name: held for name, held in zip(programs, found, strict=True) if held is not None}

    async def _passed(self, program: Sequence[str]) -> bool | None:
        running = asyncio.get_running_loop().run_in_executor(self._waiting, self._run, program)
        try:
            async with asyncio.timeout(self._patience_s):
                return await running
        except TimeoutError:
            _logger.warning("a program was not run on its prompt's examples: the sandbox is busy")
        except (SandboxError, OSError) as exc:
            _logger.warning("a program was not run on its prompt's examples: %s", exc)
        return None
