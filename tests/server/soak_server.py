"""The server of test_soak.py and test_signals.py: `slhf-server` on a fake model, in a process that reports on itself.

Its first line on stdout is its port. On SIGUSR1 it prints a line of JSON: asyncio tasks, completions under way and
resident memory in MB. Its argument is the grace period in seconds. A question's first word says what becomes of it; the
second is unique and comes back.
"""

import asyncio
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from slhf_server.cli import bind, serve
from slhf_server.errors import EngineFailed
from slhf_server.models.base import Turn
from slhf_server.models.fake import FakeEngine, Said
from slhf_server.settings.limits import ServerLimits
from slhf_server.settings.server import Settings

TOKEN_SECONDS = 0.005
ENDLESS = " ".join(["word"] * 5_000)
"""Half a minute: whoever asks for it goes away long before."""


def answer(turns: Sequence[Turn]) -> Said:
    kind, unique = turns[0].text.split()
    drafts = len(turns) == 1
    match kind:
        case "fails":
            return EngineFailed("no draft")
        case "never_drafted":
            return ENDLESS
        case "never_refined" if not drafts:
            return ENDLESS
        case "keeps_draft" if not drafts:
            return EngineFailed("no refinement")
        case "cut" if not drafts:
            return f"half {unique}", EngineFailed("cut")
    return f"draft {unique}" if drafts else f"better {unique}"


def forgetful() -> FakeEngine:
    """A fake that keeps no list of its calls: it would grow for as long as the server runs."""

    def reply(turns: Sequence[Turn]) -> Said:
        engine.leader.calls.clear()
        engine.follower.calls.clear()
        return answer(turns)

    engine = FakeEngine(reply, token_seconds=TOKEN_SECONDS, max_model_len=100_000)
    return engine


def report(engine: FakeEngine) -> None:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    facts = {
        "tasks": len(asyncio.all_tasks()),
        "running": engine.leader.running + engine.follower.running,
        "rss_mb": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
    }
    _say(json.dumps(facts))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def run(settings: Settings, listener: socket.socket) -> None:
    engine = forgetful()

    async def open_engine(settings: Settings) -> FakeEngine:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, report, engine)
        _say(str(listener.getsockname()[1]))
        return engine

    await serve(settings, listener, open_engine)


def main() -> None:
    grace_period_s = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    settings = Settings(port=0, limits=ServerLimits(running=48), log_level="error", grace_period_s=grace_period_s)
    listener = bind(settings)
    listener.listen(1024)  # whoever reads the port may connect at once
    asyncio.run(run(settings, listener))


if __name__ == "__main__":
    main()
