"""litellm: the library, which its proxy uses too. `openai/` is its provider for any OpenAI-compatible server."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else its import downloads a price list

import litellm
from litellm.exceptions import MidStreamFallbackError

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

SERVER = {"api_base": BASE_URL, "api_key": KEY, "num_retries": 0}
REQUEST = {**SERVER, "model": f"openai/{MODEL}", "messages": [{"role": "user", "content": QUESTION}]}


def answers_with_usage() -> None:
    answer = litellm.completion(**REQUEST)
    assert answer.choices[0].message.content == ANSWER
    assert answer.usage.completion_tokens == COMPLETION_TOKENS
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + COMPLETION_TOKENS


def streams_with_usage() -> None:
    chunks = list(litellm.completion(**REQUEST, stream=True, stream_options={"include_usage": True}))
    same_text(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].usage.completion_tokens == COMPLETION_TOKENS


async def answers_and_streams_asynchronously() -> None:
    assert (await litellm.acompletion(**REQUEST)).choices[0].message.content == ANSWER
    stream = await litellm.acompletion(**REQUEST, stream=True)
    same_text([chunk.choices[0].delta.content or "" async for chunk in stream])


def refines_a_draft() -> None:
    answer = litellm.completion(**REQUEST, extra_body={"refine": REFINE})
    assert answer.choices[0].message.content == REFINED


def names_an_unknown_model() -> None:
    with raises(litellm.NotFoundError):
        litellm.completion(**{**REQUEST, "model": f"openai/{UNKNOWN}"})


def raises_an_error_inside_a_stream() -> None:
    pieces = []
    with raises(MidStreamFallbackError) as raised:
        for chunk in litellm.completion(**{**REQUEST, "messages": [{"role": "user", "content": BREAK}]}, stream=True):
            pieces.append(chunk.choices[0].delta.content)
    assert FAILURE in str(raised.error)
    assert "half" in pieces


def responds() -> None:
    response = litellm.responses(model=f"openai/{MODEL}", input=QUESTION, **SERVER)
    assert response.output_text == ANSWER


def streams_a_response() -> None:
    events = litellm.responses(model=f"openai/{MODEL}", input=QUESTION, stream=True, **SERVER)
    same_text(event.delta for event in events if event.type == "response.output_text.delta")


def completes() -> None:
    answer = litellm.text_completion(model=f"text-completion-openai/{MODEL}", prompt=QUESTION, **SERVER)
    assert answer.choices[0].text == ANSWER


if __name__ == "__main__":
    main(
        chat=[
            answers_with_usage,
            streams_with_usage,
            answers_and_streams_asynchronously,
            refines_a_draft,
            names_an_unknown_model,
            raises_an_error_inside_a_stream,
        ],
        responses=[responds, streams_a_response],
        completions=[completes],
    )
