"""The LiteLLM proxy with `slhf.integrations.litellm`: chat, messages and responses, streamed or not."""

from pathlib import Path
from typing import Any

import httpx2
import openai
from anthropic import Anthropic
from openai import OpenAI

from tests.sdks.checks import ANSWER, BREAK, FAILURE, QUESTION, main, raises
from tests.sdks.litellm_proxy import MASTER_KEY, PORT, SAID, Canned, proxy

DRAFT = f"draft of: {QUESTION}"
OF_MODELS = {"base": (DRAFT, ANSWER), "claude": (ANSWER, f"better {ANSWER}")}
"""Draft and answer. LiteLLM tells an upstream of Anthropic's nothing that is not Anthropic's, such as `rounds: 0`."""
PROXY = f"http://127.0.0.1:{PORT}"
chats = OpenAI(base_url=f"{PROXY}/v1", api_key=MASTER_KEY, max_retries=0)
claude = Anthropic(base_url=PROXY, api_key=MASTER_KEY, max_retries=0)
log = Path()


def under(guardrail: str, **more: Any) -> Any:
    return {"extra_body": {"guardrails": [guardrail], **more}}


def user(text: str = QUESTION) -> Any:
    return [{"role": "user", "content": text}]


def refines_a_chat() -> None:
    answer = chats.chat.completions.create(model="base", messages=user(), **under("refine"))
    assert [choice.message.content for choice in answer.choices] == [ANSWER]
    assert answer.choices[0].finish_reason == "stop"


def refines_every_choice_of_a_chat() -> None:
    answer = chats.chat.completions.create(model="base", messages=user(), n=2, **under("refine"))
    assert [choice.message.content for choice in answer.choices] == [ANSWER, ANSWER]


def refines_a_streamed_chat() -> None:
    chunks = list(chats.chat.completions.create(model="base", messages=user(), stream=True, **under("refine")))
    texts = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
    assert texts == [ANSWER]
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"


def refines_a_message() -> None:
    for model, (_, refined) in OF_MODELS.items():
        message = claude.messages.create(model=model, messages=user(), max_tokens=64, **under("refine"))
        assert [block.text for block in message.content if block.type == "text"] == [refined]
        assert message.stop_reason == "end_turn"


def refines_a_streamed_message() -> None:
    for model, (_, refined) in OF_MODELS.items():
        with claude.messages.stream(model=model, messages=user(), max_tokens=64, **under("refine")) as stream:
            assert [text for text in stream.text_stream if text] == [refined]
            assert stream.get_final_message().stop_reason == "end_turn"


def refines_a_response() -> None:
    assert chats.responses.create(model="base", input=QUESTION, **under("refine")).output_text == ANSWER


def refines_a_streamed_response() -> None:
    events = list(chats.responses.create(model="base", input=QUESTION, stream=True, **under("refine")))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == ANSWER
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == ANSWER


def refines_a_completion() -> None:
    assert chats.completions.create(model="completions", prompt=QUESTION, **under("refine")).choices[0].text == ANSWER


def keeps_a_held_stream_alive_by_comments() -> None:
    body = {"model": "base", "messages": user(), "stream": True, "guardrails": ["slow"]}
    headers = {"Authorization": f"Bearer {MASTER_KEY}"}
    told = httpx2.post(f"{PROXY}/v1/chat/completions", json=body, headers=headers, timeout=60).text.splitlines()
    assert any(line.startswith(":") for line in told), told


def leaves_answers_alone_where_nobody_asks_for_the_guardrail() -> None:
    answer = chats.chat.completions.create(model="base", messages=user())
    assert answer.choices[0].message.content == DRAFT


def shows_the_refiner_conversation_draft_and_limits_and_waits_no_longer_than_it_may() -> None:
    brief: Any = [{"role": "system", "content": "Be brief."}, *user()]
    chat = chats.chat.completions.create(model="base", messages=brief, max_tokens=64, **under("slow"))
    message = claude.messages.create(
        model="claude", system="Be brief.", messages=user(), max_tokens=64, **under("slow")
    )
    response = chats.responses.create(
        model="base", instructions="Be brief.", input=QUESTION, max_output_tokens=64, **under("slow")
    )
    block = message.content[0]
    assert block.type == "text"
    drafts = [chat.choices[0].message.content, block.text, response.output_text]
    assert drafts == [DRAFT, ANSWER, DRAFT]
    Canned.asked[:-3] = []
    seen = [
        {**asked, "messages": [(turn["role"], words(turn["content"])) for turn in asked["messages"]]}
        for asked in Canned.asked
    ]
    wanted: dict[str, Any] = {"timeout_ms": 100, "max_tokens": 64, "stream": False, "return_rounds": False}
    wanted |= {"messages": [("system", "Be brief."), ("user", QUESTION)]}
    assert seen == [{**wanted, "draft": draft} for draft in drafts]
    assert "TimeoutError" in log.read_text()


def words(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def leaves_answers_and_streams_as_they_are_where_the_refiner_is_down() -> None:
    answer = chats.chat.completions.create(model="base", messages=user(), **under("down"))
    assert answer.choices[0].message.content == DRAFT
    chunks = chats.chat.completions.create(model="base", messages=user(), stream=True, **under("down"))
    texts = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
    assert "".join(texts) == DRAFT
    assert len(texts) > 1
    assert "TransportError" in log.read_text()


def leaves_an_answer_as_it_is_where_a_round_fails() -> None:
    answer = chats.chat.completions.create(model="base", messages=user(BREAK), **under("strict"))
    assert answer.choices[0].message.content == f"draft of: {BREAK}"
    assert FAILURE in log.read_text()


def leaves_calls_of_tools_alone() -> None:
    answer = chats.chat.completions.create(model="canned", messages=user(), **under("refine"))
    assert answer.choices[0].message.content == SAID
    assert answer.choices[0].message.tool_calls


def leaves_json_alone() -> None:
    form: Any = {"type": "json_object"}
    answer = chats.chat.completions.create(model="base", messages=user(), response_format=form, **under("refine"))
    assert answer.choices[0].message.content == DRAFT


def passes_on_what_came_before_an_upstream_broke_off() -> None:
    pieces = []
    with raises(openai.APIError):
        for chunk in chats.chat.completions.create(model="canned", messages=user(), stream=True, **under("refine")):
            pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
    assert pieces == ["half"]


def refuses_what_it_cannot_use_when_it_is_made() -> None:
    from slhf import ConfigurationError
    from slhf.integrations.litellm import SlhfRefine

    def made(**more: Any) -> Any:
        return SlhfRefine(**{"guardrail_name": "refine", "event_hook": "post_call", **more})

    made()
    with raises(ValueError) as raised:
        made(refine={"round": 2})
    assert "round" in str(raised.error)
    with raises(ConfigurationError):
        made(api_base="localhost:8000")
    with raises(ValueError):
        made(event_hook="pre_call")


if __name__ == "__main__":
    with proxy() as log:
        main(
            refine=[
                refines_a_chat,
                refines_every_choice_of_a_chat,
                refines_a_streamed_chat,
                refines_a_message,
                refines_a_streamed_message,
                refines_a_response,
                refines_a_streamed_response,
                refines_a_completion,
                keeps_a_held_stream_alive_by_comments,
                leaves_answers_alone_where_nobody_asks_for_the_guardrail,
                shows_the_refiner_conversation_draft_and_limits_and_waits_no_longer_than_it_may,
                leaves_answers_and_streams_as_they_are_where_the_refiner_is_down,
                leaves_an_answer_as_it_is_where_a_round_fails,
                leaves_calls_of_tools_alone,
                leaves_json_alone,
                passes_on_what_came_before_an_upstream_broke_off,
                refuses_what_it_cannot_use_when_it_is_made,
            ],
        )
