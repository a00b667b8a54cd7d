"""The server of test_hostile.py, in a process of its own: the real command-line path with the fake engine and a key.

Its first line on stdout is its port. It ends with its standard input.
"""

import asyncio
import os
import signal
import sys
import threading

from slhf_server.cli import bind, serve
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.limits import ServerLimits
from slhf_server.settings.server import Settings


def main() -> None:
    settings = Settings(
        port=0,
        api_keys="me=right",
        log_level="error",
        read_timeout_s=float(sys.argv[1]),
        limits=ServerLimits(body_bytes=1 << 20),
    )
    listener = bind(settings)
    listener.listen(2048)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=_end_with_input, daemon=True).start()
    asyncio.run(serve(settings, listener, FakeEngine().open))


def _end_with_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
