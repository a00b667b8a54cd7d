"""The server that the clients talk to: the real application on a socket, with a fake engine that can fail midway."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from slhf_server.app import create_app
from slhf_server.errors import EngineFailed
from slhf_server.models.base import Turn
from slhf_server.models.fake import FakeEngine, Said, improve
from slhf_server.settings.server import Settings
from tests.conftest import running
from tests.sdks.checks import BREAK, COMPLETION_TOKENS, FAILURE, LOOK_UP, LOOKED_UP

CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome", "days": 2}'}},
    {"id": "c2", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
]


class Served(NamedTuple):
    url: str
    completion_tokens: int  # of the draft and of the answer to the checks' question
    failure: str  # what a client is told where the engine fails in the midst of an answer
    calls_tools: bool


def reply(turns: Sequence[Turn]) -> Said:
    """As the fake's own, but the Follower fails at its fourth word where the conversation is BREAK, and the Leader
    calls tools where it is LOOK_UP."""
    if turns[0].text == LOOK_UP and len(turns) == 1:
        return CALLS
    if turns[-1].text == "Result of weather:\nsunny\n\nResult of clock:\nnoon":
        return LOOKED_UP
    said = improve(turns)
    if turns[0].text == BREAK and said.startswith("better"):
        return "half of an", EngineFailed(FAILURE)
    return said


@contextlib.contextmanager
def serving() -> Iterator[Served]:
    with running(create_app(Settings(), FakeEngine(reply, calls_tools=True).open)) as url:
        yield Served(url, COMPLETION_TOKENS, FAILURE, calls_tools=True)
