"""langchain-openai: the chat model that LangChain and LangGraph use for any OpenAI-compatible server."""

from typing import Any

import openai
from langchain_openai import ChatOpenAI, OpenAI

from tests.sdks.checks import (
    ANSWER,
    BASE_URL,
    BREAK,
    COMPLETION_TOKENS,
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


def chat(model: str = MODEL, **options: Any) -> Any:
    return ChatOpenAI(base_url=BASE_URL, api_key=KEY, model=model, max_retries=0, **options)


def answers_with_usage() -> None:
    answer = chat().invoke(QUESTION)
    assert answer.content == ANSWER
    assert answer.usage_metadata["output_tokens"] == COMPLETION_TOKENS


def streams_with_usage() -> None:
    chunks = list(chat(stream_usage=True).stream(QUESTION))
    same_text(chunk.content for chunk in chunks)
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) == COMPLETION_TOKENS


async def answers_and_streams_asynchronously() -> None:
    assert (await chat().ainvoke(QUESTION)).content == ANSWER
    same_text([chunk.content async for chunk in chat().astream(QUESTION)])


def answers_a_batch() -> None:
    assert [answer.content for answer in chat().batch([QUESTION, "why?"])] == [ANSWER, "better draft of: why?"]


def refines_a_draft() -> None:
    assert chat(extra_body={"refine": REFINE}).invoke(QUESTION).content == REFINED


def names_an_unknown_model() -> None:
    with raises(openai.NotFoundError):
        chat(UNKNOWN).invoke(QUESTION)


def raises_an_error_inside_a_stream() -> None:
    pieces = []
    with raises(openai.APIError):
        for chunk in chat().stream(BREAK):
            pieces.append(chunk.content)
    assert "half" in pieces


def responds() -> None:
    answer = chat(use_responses_api=True).invoke(QUESTION)
    assert answer.text == ANSWER
    assert answer.usage_metadata["output_tokens"] == COMPLETION_TOKENS


def streams_a_response() -> None:
    same_text(chunk.text for chunk in chat(use_responses_api=True).stream(QUESTION))


def completes() -> None:
    assert OpenAI(base_url=BASE_URL, api_key=KEY, model=MODEL, n=1).invoke(QUESTION) == ANSWER


if __name__ == "__main__":
    main(
        chat=[
            answers_with_usage,
            streams_with_usage,
            answers_and_streams_asynchronously,
            answers_a_batch,
            refines_a_draft,
            names_an_unknown_model,
            raises_an_error_inside_a_stream,
        ],
        responses=[responds, streams_a_response],
        completions=[completes],
    )
