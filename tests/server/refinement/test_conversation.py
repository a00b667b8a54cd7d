"""What Leader and Follower see of a conversation with tools, images and thoughts."""

from typing import Any

import pytest

from slhf.history import Message
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.errors import BadRequest
from slhf_server.models.base import Turn
from slhf_server.refinement.conversation import as_sent, as_text, check
from tests.zoo import FAMILIES

CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
WITH_TOOLS: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": "How is the weather?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "c2"}]},
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "warm"}]},
]


def parsed(messages: list[dict[str, Any]]) -> list[Message]:
    return [Message.model_validate(message) for message in messages]


def test_tools_are_told_in_words_in_turns_that_every_template_takes() -> None:
    turns = as_text(parsed(WITH_TOOLS))
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[2].text == "\n".join(['Called weather with {"city": "Rome"}'] * 2)
    assert turns[3].text == "Result of weather:\nsunny\n\nResult of weather:\nwarm"


def test_results_and_what_the_user_says_next_are_one_turn() -> None:
    """Templates of Llama 2, Mistral and Gemma take users and assistants in turn alone."""
    told = as_text(parsed([*WITH_TOOLS, {"role": "user", "content": "And tomorrow?"}]))
    assert [turn.role for turn in told] == ["system", "user", "assistant", "user"]
    assert told[3].text == "Result of weather:\nsunny\n\nResult of weather:\nwarm\n\nAnd tomorrow?"
    twice = as_text(parsed([*WITH_TOOLS, *[{"role": "user", "content": text} for text in ("a", "b")]]))
    assert [turn.role for turn in twice[3:]] == ["user", "user"]  # joined where a template asks for it (the encoder)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_conversation_with_tools_is_taken_by_every_family(name: str) -> None:
    """The Leader's turns and the Follower's; those that know no system turn are asked without one."""
    family = FAMILIES[name]
    encoder = PromptEncoder(family.tokenizer())
    messages = [*WITH_TOOLS[bool(family.refuses_system) :], {"role": "user", "content": "And tomorrow?"}]
    turns = as_text(parsed(messages))
    for asked in (turns, (*turns, Turn("assistant", "Rain."), Turn("user", "Improve it."))):
        assert encoder.encode(asked)
    if family.refuses_system:
        with pytest.raises(BadRequest, match="template refuses this conversation: ") as refused:
            encoder.encode(as_text(parsed(WITH_TOOLS)))
        assert refused.value.param == "messages"


def test_an_upstream_is_sent_the_messages_as_they_came() -> None:
    sent = [turn.message for turn in as_sent(parsed(WITH_TOOLS))]
    assert sent == WITH_TOOLS


def test_an_image_goes_to_an_upstream_whole_and_to_the_follower_not_at_all() -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
    ]
    messages = parsed([{"role": "user", "content": parts}])
    assert messages[0].others == [(1, "image_url")]
    assert as_text(messages)[0].text == "What is this?"
    assert as_sent(messages)[0].message == {"role": "user", "content": parts}


def test_earlier_thoughts_are_no_part_of_the_conversation() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>hm</think>b", "reasoning_content": "hm"},
        {"role": "user", "content": "c"},
    ]
    assert [turn.text for turn in as_text(parsed(messages))] == ["a", "b", "c"]
    assert [turn.message for turn in as_sent(parsed(messages))] == messages  # an upstream may want them back


def test_a_conversation_may_end_with_a_tools_result_or_a_user() -> None:
    check(parsed(WITH_TOOLS))
    for role in ("system", "assistant"):
        with pytest.raises(BadRequest):
            check(parsed([{"role": role, "content": "x"}]))
