"""The processes that read clients' schemas (validator.py), where a task may take too long or crash at no further cost.

A task first has a short time, which is plenty for schemas that people write. A task that takes longer is done again by
a second process, whose queue is short, so that a client with hard schemas waits for itself and the others go on.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from typing import Any

_QUICK_S, _PATIENT_S = 0.1, 1.0  # of processor time
_MOST_WAITING = 4  # for the patient process
_MOST_ANSWERED = 4 << 20  # bytes of one answer: a schema whose patterns are spelled out, as JSON in JSON


class TookTooLong(Exception):
    """The task was ended: it took too long, or too much memory or stack."""


class TooManyWait(Exception):
    """The task was not begun again: too many others that take long wait already."""


class Workers:
    """Two processes, each started when it is first needed. They belong to one event loop.

    `grammars` says that the engine writes by llguidance's grammars.
    """

    def __init__(self, *, grammars: bool = True) -> None:
        self._grammars = grammars
        self._quick, self._patient = _Worker(_QUICK_S), _Worker(_PATIENT_S)

    async def ask(self, schema: bytes, text: bytes = b"", *, grammar: bool = False) -> Any:
        """The answer of validator.py. Raises TookTooLong and TooManyWait."""
        grammar = grammar and self._grammars
        try:
            return await self._quick.ask(schema, text, grammar)
        except TookTooLong:
            if self._patient.waiting >= _MOST_WAITING:
                raise TooManyWait from None
            return await self._patient.ask(schema, text, grammar)

    async def close(self) -> None:
        for worker in (self._quick, self._patient):
            await worker.close()


class _Worker:
    """One process, which does one task after the other and is replaced after it has ended."""

    def __init__(self, seconds: float) -> None:
        self.waiting = 0
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._process: Process | None = None

    async def ask(self, schema: bytes, text: bytes, grammar: bool) -> Any:
        self.waiting += 1
        try:
            async with self._turn:
                return json.loads(await self._answer(schema, text, grammar))
        finally:
            self.waiting -= 1

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)  # `process.kill` may reap it before asyncio does, which complains
            await process.wait()

    async def _answer(self, schema: bytes, text: bytes, grammar: bool) -> bytes:
        process = self._process = self._process or await self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        answer = b""
        try:
            process.stdin.writelines([b"%d %d %d\n" % (len(schema), len(text), grammar), schema, text])
            await process.stdin.drain()
            answer = await process.stdout.readline()
        except ConnectionError:
            pass  # the process has ended, as below
        finally:
            if not answer.endswith(b"\n"):  # the process has ended, or its task was cancelled
                await self.close()
        if not answer.endswith(b"\n"):
            raise TookTooLong
        return answer

    async def _started(self) -> Process:
        """Start the process in a session of its own, so that Ctrl-C reaches only the server, which ends it itself."""
        program = ["-m", "slhf_server.models.structured_output.validator", str(self._seconds)]
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *program,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            start_new_session=True,
            limit=_MOST_ANSWERED,
        )
