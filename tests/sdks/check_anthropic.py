"""The official anthropic SDK for Python."""

import anthropic
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import MessageParam

from tests.sdks.checks import (
    ANSWER,
    BREAK,
    COMPLETION_TOKENS,
    FAILURE,
    KEY,
    MODEL,
    QUESTION,
    REFINE,
    REFINED,
    UNKNOWN,
    URL,
    main,
    raises,
    same_text,
)

client = Anthropic(base_url=URL, api_key=KEY, max_retries=0)


def user(text: str = QUESTION) -> list[MessageParam]:
    return [{"role": "user", "content": text}]


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def answers_with_usage() -> None:
    message = client.messages.create(model=MODEL, messages=user(), max_tokens=64)
    assert text_of(message) == ANSWER
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == COMPLETION_TOKENS


def answers_to_a_system_prompt() -> None:
    plain = client.messages.create(model=MODEL, messages=user(), max_tokens=64)
    message = client.messages.create(model=MODEL, messages=user(), max_tokens=64, system="Be brief.")
    assert text_of(message) == ANSWER
    assert message.usage.input_tokens > plain.usage.input_tokens


def streams_its_typed_events() -> None:
    events = list(client.messages.create(model=MODEL, messages=user(), max_tokens=64, stream=True))
    assert (events[0].type, events[-1].type) == ("message_start", "message_stop")
    same_text(
        event.delta.text for event in events if event.type == "content_block_delta" and event.delta.type == "text_delta"
    )


def streams_through_the_helper() -> None:
    with client.messages.stream(model=MODEL, messages=user(), max_tokens=64) as stream:
        same_text(stream.text_stream)
        final = stream.get_final_message()
    assert text_of(final) == ANSWER
    assert final.usage.output_tokens == COMPLETION_TOKENS


async def answers_and_streams_asynchronously() -> None:
    async with AsyncAnthropic(base_url=URL, api_key=KEY, max_retries=0) as asynchronous:
        message = await asynchronous.messages.create(model=MODEL, messages=user(), max_tokens=64)
        assert text_of(message) == ANSWER
        async with asynchronous.messages.stream(model=MODEL, messages=user(), max_tokens=64) as stream:
            same_text([piece async for piece in stream.text_stream])


def refines_a_draft() -> None:
    message = client.messages.create(model=MODEL, messages=user(), max_tokens=64, extra_body={"refine": REFINE})
    assert text_of(message) == REFINED
    assert message.model_extra
    assert message.model_extra["refinement"]["draft_source"] == "client"


def counts_tokens() -> None:
    brief = client.messages.count_tokens(model=MODEL, messages=user("why"))
    longer = client.messages.count_tokens(model=MODEL, messages=user())
    assert 0 < brief.input_tokens < longer.input_tokens


def names_an_unknown_model() -> None:
    with raises(anthropic.NotFoundError) as raised:
        client.messages.create(model=UNKNOWN, messages=user(), max_tokens=64)
    assert isinstance(raised.error, anthropic.NotFoundError)
    assert raised.error.type == "not_found_error"


def raises_an_error_inside_a_stream() -> None:
    pieces: list[str] = []
    with (
        raises(anthropic.APIError) as raised,
        client.messages.stream(model=MODEL, messages=user(BREAK), max_tokens=64) as stream,
    ):
        pieces += stream.text_stream
    assert FAILURE in str(raised.error)
    assert "".join(pieces) == "half of an"


if __name__ == "__main__":
    main(
        messages=[
            answers_with_usage,
            answers_to_a_system_prompt,
            streams_its_typed_events,
            streams_through_the_helper,
            answers_and_streams_asynchronously,
            refines_a_draft,
            counts_tokens,
            names_an_unknown_model,
            raises_an_error_inside_a_stream,
        ],
    )
