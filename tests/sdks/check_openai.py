"""The official openai SDK for Python, of either line."""

import openai
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionUserMessageParam

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

client = OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0)


def user(text: str = QUESTION) -> list[ChatCompletionUserMessageParam]:
    return [{"role": "user", "content": text}]


def lists_the_model() -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def answers_with_usage() -> None:
    answer = client.chat.completions.create(model=MODEL, messages=user())
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    assert answer.usage.completion_tokens == COMPLETION_TOKENS
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + COMPLETION_TOKENS


def streams_with_usage() -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=user(), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    same_text(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    usage = chunks[-1].usage
    assert usage
    assert usage.completion_tokens == COMPLETION_TOKENS


def streams_through_the_helper() -> None:
    with client.chat.completions.stream(model=MODEL, messages=user()) as stream:
        same_text(event.delta for event in stream if event.type == "content.delta")
        assert stream.get_final_completion().choices[0].message.content == ANSWER


def streams_through_the_beta_helper() -> None:
    with client.beta.chat.completions.stream(model=MODEL, messages=user()) as stream:
        same_text(event.delta for event in stream if event.type == "content.delta")


async def answers_and_streams_asynchronously() -> None:
    async with AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0) as asynchronous:
        answer = await asynchronous.chat.completions.create(model=MODEL, messages=user())
        assert answer.choices[0].message.content == ANSWER
        stream = await asynchronous.chat.completions.create(model=MODEL, messages=user(), stream=True)
        same_text([chunk.choices[0].delta.content or "" async for chunk in stream])


def refines_a_draft() -> None:
    answer = client.chat.completions.create(model=MODEL, messages=user(), extra_body={"refine": REFINE})
    assert answer.choices[0].message.content == REFINED
    assert answer.model_extra
    assert answer.model_extra["refinement"]["draft_source"] == "client"


def names_an_unknown_model() -> None:
    with raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model=UNKNOWN, messages=user())
    assert isinstance(raised.error, openai.NotFoundError)
    assert raised.error.code == "model_not_found"


def raises_an_error_inside_a_stream() -> None:
    pieces = []
    with raises(openai.APIError) as raised:
        for chunk in client.chat.completions.create(model=MODEL, messages=user(BREAK), stream=True):
            pieces.append(chunk.choices[0].delta.content)
    assert FAILURE in str(raised.error)
    assert pieces == ["", "half", " of", " an"]


def responds() -> None:
    response = client.responses.create(model=MODEL, input=QUESTION)
    assert response.output_text == ANSWER
    assert response.status == "completed"
    assert response.usage
    assert response.usage.output_tokens == COMPLETION_TOKENS


def responds_to_instructions() -> None:
    response = client.responses.create(model=MODEL, input=QUESTION, instructions="Be brief.")
    assert response.output_text == ANSWER
    plain = client.responses.create(model=MODEL, input=QUESTION)
    assert response.usage
    assert plain.usage
    assert response.usage.input_tokens > plain.usage.input_tokens


def streams_a_response() -> None:
    events = list(client.responses.create(model=MODEL, input=QUESTION, stream=True))
    same_text(event.delta for event in events if event.type == "response.output_text.delta")
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == ANSWER


def streams_a_response_through_the_helper() -> None:
    with client.responses.stream(model=MODEL, input=QUESTION) as stream:
        same_text(event.delta for event in stream if event.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == ANSWER


async def responds_asynchronously() -> None:
    async with AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0) as asynchronous:
        assert (await asynchronous.responses.create(model=MODEL, input=QUESTION)).output_text == ANSWER


def refines_a_draft_in_a_response() -> None:
    response = client.responses.create(model=MODEL, input=QUESTION, extra_body={"refine": REFINE})
    assert response.output_text == REFINED


def names_an_unknown_model_of_a_response() -> None:
    with raises(openai.NotFoundError) as raised:
        client.responses.create(model=UNKNOWN, input=QUESTION)
    assert isinstance(raised.error, openai.NotFoundError)
    assert raised.error.code == "model_not_found"


def completes() -> None:
    answer = client.completions.create(model=MODEL, prompt=QUESTION)
    assert answer.choices[0].text == ANSWER
    assert answer.usage
    assert answer.usage.completion_tokens == COMPLETION_TOKENS


def streams_a_completion() -> None:
    same_text(chunk.choices[0].text for chunk in client.completions.create(model=MODEL, prompt=QUESTION, stream=True))


if __name__ == "__main__":
    main(
        chat=[
            lists_the_model,
            answers_with_usage,
            streams_with_usage,
            streams_through_the_helper,
            streams_through_the_beta_helper,
            answers_and_streams_asynchronously,
            refines_a_draft,
            names_an_unknown_model,
            raises_an_error_inside_a_stream,
        ],
        responses=[
            responds,
            responds_to_instructions,
            streams_a_response,
            streams_a_response_through_the_helper,
            responds_asynchronously,
            refines_a_draft_in_a_response,
            names_an_unknown_model_of_a_response,
        ],
        completions=[completes, streams_a_completion],
    )
