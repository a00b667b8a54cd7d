"""The server of test_event_loop.py: `slhf-server` on a fake model in its own process, with a heartbeat on its loop.

Its first line on stdout is its port. On SIGUSR1 it prints the longest time, in seconds, that the loop has stood still
since the last time: beyond the heartbeat's own pause, and beyond what the thread waited for a processor.
"""

import asyncio
import signal
import socket
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.hostile_inputs import echo
from slhf_server.cli import bind, serve
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import Settings

PAUSE_S = 0.002


def waited_for_a_processor() -> float:
    """Seconds that this thread was ready to run and did not: the second figure of its schedstat."""
    return int(Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()[1]) / 1e9


class Heartbeat:
    def __init__(self) -> None:
        self._longest = 0.0

    async def beat(self) -> None:
        while True:
            before, waited = time.perf_counter(), waited_for_a_processor()
            await asyncio.sleep(PAUSE_S)
            gap = time.perf_counter() - before - PAUSE_S - (waited_for_a_processor() - waited)
            self._longest = max(self._longest, gap)

    def tell(self) -> None:
        print(self._longest, flush=True)  # noqa: T201
        self._longest = 0.0


@asynccontextmanager
async def beating() -> AsyncGenerator[None, None]:
    heart = Heartbeat()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, heart.tell)
    task = asyncio.create_task(heart.beat())
    yield
    task.cancel()


async def main() -> None:
    settings = Settings(port=0, log_level="error")
    listener: socket.socket = bind(settings)
    async with beating():
        print(listener.getsockname()[1], flush=True)  # noqa: T201
        await serve(settings, listener, FakeEngine(echo, calls_tools=True).open)


if __name__ == "__main__":
    asyncio.run(main())
