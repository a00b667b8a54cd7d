"""A Leader that calls tools, in one turn or between words, and the official client that asks it."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import openai

from slhf_server.models.base import Chunk, SamplingParams, Turn
from slhf_server.models.fake import FakeEngine, FakeModel, Said, improve

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
"""The parameters of the tool of that name; a second one, `clock`, has none."""
CALL: dict[str, Any] = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Rome", "days": 2}'},
}
OTHER: dict[str, Any] = {"id": "c2", "type": "function", "function": {"name": "clock", "arguments": "{}"}}


def calls_first(turns: Sequence[Turn]) -> Said:
    """Two calls at first; words once their results are there, and for a Follower."""
    return improve(turns) if len(turns) > 1 else [CALL, OTHER]


def assert_offered(engine: FakeEngine) -> None:
    """The Leader was told of both tools."""
    offered = engine.leader.calls[0][1].tools
    assert offered is not None
    assert [tool["function"]["name"] for tool in offered.offered] == ["weather", "clock"]
    assert offered.offered[0]["function"]["parameters"] == WEATHER


def connect(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


class Telling(FakeModel):
    """Says words before its call, among its pieces and behind it, as models do that tell what they are about to do."""

    async def stream(
        self, turns: Sequence[Turn], sampling: SamplingParams, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        first, *rest = ({"name": "weather", "arguments": ""}, {"arguments": '{"city":'}, {"arguments": ' "Rome"}'})
        for word in ("Let", " me."):
            yield Chunk(word, 1, 1)
        yield Chunk("", 1, 1, call_deltas=({"index": 0, "id": "c1", "type": "function", "function": first},))
        yield Chunk(" Wait", 1, 1, call_deltas=({"index": 0, "function": rest[0]},))
        yield Chunk(" for it.", 1, 1)
        yield Chunk("", 1, 1, call_deltas=({"index": 0, "function": rest[1]},))
        yield Chunk("", 0, 1, finish_reason="tool_calls")
