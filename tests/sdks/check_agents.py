"""The OpenAI Agents SDK: an agent with two tools, whose calls, results and final answer pass the server."""

import os
from typing import Any

os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"  # else it sends traces to OpenAI

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
)
from openai import AsyncOpenAI

from tests.sdks.checks import BASE_URL, CALLS_TOOLS, KEY, LOOK_UP, LOOKED_UP, MODEL, main

called: list[str] = []


def weather(city: str, days: int) -> str:
    """Tells the weather of a city."""
    called.append(f"weather {city} {days}")
    return "sunny"


def clock() -> str:
    """Tells the time."""
    called.append("clock")
    return "noon"


def agent(model: Any, **settings: Any) -> Any:
    client = AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0)
    chosen = model(model=MODEL, openai_client=client)
    return Agent(
        name="Helper",
        model=chosen,
        model_settings=ModelSettings(**settings),
        tools=[function_tool(tool) for tool in [weather, clock]],
    )


async def in_one_piece(model: Any) -> None:
    called.clear()
    result = await Runner.run(agent(model), LOOK_UP)
    looked_up(result)


async def in_pieces(model: Any) -> None:
    called.clear()
    result = Runner.run_streamed(agent(model), LOOK_UP)
    async for _ in result.stream_events():
        pass
    looked_up(result)


def looked_up(result: Any) -> None:
    """The tools were called with the Leader's arguments, and the answer that followed is a Follower's."""
    if CALLS_TOOLS:
        assert sorted(called) == ["clock", "weather Rome 2"]
        assert result.final_output == f"better {LOOKED_UP}"
    else:  # the tools are left out, and the Leader answers in words
        assert called == []
        assert result.final_output == f"better draft of: {LOOK_UP}"


async def chats() -> None:
    await in_one_piece(OpenAIChatCompletionsModel)


async def chats_in_pieces() -> None:
    await in_pieces(OpenAIChatCompletionsModel)


async def responds() -> None:
    await in_one_piece(OpenAIResponsesModel)


async def responds_in_pieces() -> None:
    await in_pieces(OpenAIResponsesModel)


if __name__ == "__main__":
    main(chat=[chats, chats_in_pieces], responses=[responds, responds_in_pieces])
