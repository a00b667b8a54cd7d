"""pydantic-ai: an agent on an OpenAI-compatible model."""

from typing import Any

from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.sdks.checks import (
    ANSWER,
    BASE_URL,
    BREAK,
    COMPLETION_TOKENS,
    FAILURE,
    KEY,
    MODEL,
    QUESTION,
    REFINE,
    REFINED,
    UNKNOWN,
    main,
    raises,
    same_text,
)


def agent(name: str = MODEL, model: Any = OpenAIChatModel, **options: Any) -> Any:
    return Agent(model(name, provider=OpenAIProvider(base_url=BASE_URL, api_key=KEY)), retries=0, **options)


async def streamed(asked: Any, question: str, pieces: list[str]) -> Any:
    """Fills `pieces`; gives the usage."""
    async with asked.run_stream(question) as result:
        async for piece in result.stream_text(delta=True, debounce_by=None):
            pieces.append(piece)
        return result.usage


async def answers_with_usage() -> None:
    result = await agent().run(QUESTION)
    assert result.output == ANSWER
    assert result.usage.output_tokens == COMPLETION_TOKENS


async def streams_with_usage() -> None:
    pieces: list[str] = []
    usage = await streamed(agent(), QUESTION, pieces)
    same_text(pieces)
    assert usage.output_tokens == COMPLETION_TOKENS


async def instructions_reach_the_model() -> None:
    assert (await agent(instructions="Be brief.").run(QUESTION)).output == ANSWER


async def refines_a_draft() -> None:
    result = await agent(model_settings={"extra_body": {"refine": REFINE}}).run(QUESTION)
    assert result.output == REFINED


async def names_an_unknown_model() -> None:
    with raises(ModelHTTPError) as raised:
        await agent(UNKNOWN).run(QUESTION)
    assert isinstance(raised.error, ModelHTTPError)
    assert raised.error.status_code == 404


async def raises_an_error_inside_a_stream() -> None:
    pieces: list[str] = []
    with raises(ModelHTTPError) as raised:
        await streamed(agent(), BREAK, pieces)
    assert FAILURE in str(raised.error)
    assert "half" in pieces


async def responds() -> None:
    assert (await agent(model=OpenAIResponsesModel).run(QUESTION)).output == ANSWER


async def streams_a_response() -> None:
    pieces: list[str] = []
    await streamed(agent(model=OpenAIResponsesModel), QUESTION, pieces)
    same_text(pieces)


if __name__ == "__main__":
    main(
        chat=[
            answers_with_usage,
            streams_with_usage,
            instructions_reach_the_model,
            refines_a_draft,
            names_an_unknown_model,
            raises_an_error_inside_a_stream,
        ],
        responses=[responds, streams_a_response],
    )
