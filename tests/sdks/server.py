"""The server that the clients talk to: the real application on a socket, with a fake engine that can fail midway."""

import contextlib
from collections.abc import Iterator, Sequence

from slhf_server.app import create_app
from slhf_server.errors import EngineFailed
from slhf_server.models.base import Turn
from slhf_server.models.fake import FakeEngine, Said, improve
from slhf_server.settings.server import Settings
from tests.conftest import running
from tests.sdks.checks import BREAK


def reply(turns: Sequence[Turn]) -> Said:
    """As the fake's own, but the Follower fails at its fourth word where the conversation is BREAK."""
    said = improve(turns)
    if turns[0].text == BREAK and said.startswith("better"):
        return "half of an", EngineFailed("the engine failed")
    return said


@contextlib.contextmanager
def serving() -> Iterator[str]:
    with running(create_app(Settings(), FakeEngine(reply).open)) as url:
        yield url
