"""`slhf-server` with the fake engine that hostile_inputs.py asks for; takes the server's flags."""

import asyncio
import sys

from benchmarks.hostile_inputs import echo
from slhf_server.cli import bind, serve
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.reading import load_settings

if __name__ == "__main__":
    settings = load_settings([*sys.argv[1:], "--log-level", "error"])
    asyncio.run(serve(settings, bind(settings), FakeEngine(echo).open))
