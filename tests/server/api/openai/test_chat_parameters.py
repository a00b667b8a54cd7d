"""Every row of the table of chat parameters (parameters.py) holds: through the application, with the fake engine."""

from typing import Any

import httpx2
import pytest

from slhf_server.api.openai.chat_request import ChatRequest
from slhf_server.api.openai.parameters import CHAT
from slhf_server.models.base import SamplingParams
from slhf_server.models.fake import FakeEngine
from slhf_server.refinement.seeds import seed_of
from tests.conftest import Serve

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "what is it"}]}

SENSIBLE: dict[str, Any] = {
    "model": "fake",
    "messages": ASK["messages"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "refine": {"rounds": 1},
    "temperature": 0.5,
    "top_p": 0.25,
    "max_tokens": 11,
    "max_completion_tokens": 12,
    "stop": ["END", "STOP"],
    "seed": 13,
    "frequency_penalty": 0.75,
    "presence_penalty": -0.75,
    "top_k": 14,
    "min_p": 0.125,
    "min_tokens": 3,
    "repetition_penalty": 1.5,
    "ignore_eos": True,
    "user": "somebody",
    "safety_identifier": "somebody",
    "metadata": {"run": "7"},
    "store": True,
    "service_tier": "auto",
    "prompt_cache_key": "key",
    "prompt_cache_options": {},
    "prompt_cache_retention": "24h",
    "n": 2,
    "response_format": {"type": "text"},
    "logprobs": True,
    "top_logprobs": 3,
    "bad_words": ["damn"],
    "include_stop_str_in_output": True,
    "skip_special_tokens": False,
    "logit_bias": {"5": -100},
    "stop_token_ids": [7],
    "allowed_token_ids": [5, 6],
    "request_id": "r",
    "session_id": "s",
    "priority": 1,
    "include_reasoning": True,
    "usage": {"include": True},
    "tools": [{"type": "function", "function": {"name": "look_up"}}],
    "parallel_tool_calls": False,
}

REFUSED: dict[str, Any] = {
    "tool_choice": "required",
    "functions": [{"name": "look_up"}],
    "function_call": {"name": "look_up"},
    "moderation": {},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "prediction": {"type": "content", "content": "so"},
    "web_search_options": {},
    "reasoning_effort": "high",
    "verbosity": "low",
    "chat_template_kwargs": {"enable_thinking": False},
    "documents": [{"title": "t", "text": "x"}],
    "mm_processor_kwargs": {"num_crops": 4},
    "media_io_kwargs": {"video": {"num_frames": 4}},
    "thinking_token_budget": 10,
    "reasoning": {"effort": "high", "exclude": None},
    "thinking": {"type": "enabled", "budget_tokens": 10},
    "enable_thinking": True,
    "thinking_budget": 10,
    "provider": {"order": ["x"]},
    "models": ["x"],
    "route": "fallback",
    "transforms": ["middle-out"],
    "plugins": [{"id": "web"}],
    "safe_prompt": True,
    "extra_body": {"top_k": 5},
    "cache_salt": "salt",
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "prompt_logprobs": 1,
    "truncate_prompt_tokens": 5,
    "use_beam_search": True,
    "length_penalty": 2.0,
    "early_stopping": True,
    "spaces_between_special_tokens": False,
    "add_special_tokens": True,
    "kv_transfer_params": {},
    "vllm_xargs": {"a": 1},
    "structured_outputs": {"regex": "a"},
    "guided_json": {"type": "object"},
    "guided_regex": "a",
    "guided_choice": ["a"],
    "guided_grammar": "root ::= 'a'",
    "guided_decoding_backend": "xgrammar",
    "guided_whitespace_pattern": " ",
    "add_generation_prompt": False,
    "continue_final_message": True,
    "chat_template": "{{ messages }}",
    "echo": True,
    "best_of": 2,
    "random_seed": 5,
}

BOTH = [name for name, parameter in CHAT.items() if parameter.support in ("both", "engine")]
NEEDS = {"top_logprobs": {"logprobs": True}}
"""What a parameter cannot be given without."""
AS_SAMPLED: dict[str, dict[str, Any]] = {
    "max_completion_tokens": {"max_tokens": 12},
    "logprobs": {"logprobs": 0},
    "top_logprobs": {"logprobs": 3},
    "response_format": {"structure": None},
}
"""Where a parameter has another name or value for the models; lists become tuples."""


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def url(serve: Serve, engine: FakeEngine) -> str:
    return f"{serve(engine)}/v1/chat/completions"


def test_every_row_is_tried_here() -> None:
    refused = {name for name, parameter in CHAT.items() if parameter.support in ("rejected", "leader", "upstream")}
    refused -= {"tools", "parallel_tool_calls"}
    assert set(REFUSED) == refused
    assert set(SENSIBLE) == set(CHAT) - refused


def test_every_field_has_a_row_and_every_row_in_use_has_a_field() -> None:
    in_use = {name for name, parameter in CHAT.items() if parameter.support in ("used", "both", "engine")}
    assert set(ChatRequest.model_fields) == in_use | {"upstream_params"}


def test_what_is_ignored_or_rejected_says_why() -> None:
    for name, parameter in CHAT.items():
        assert parameter.support not in ("ignored", "rejected") or parameter.note, name
        assert parameter.support in ("rejected", "leader", "upstream", "engine") or not parameter.neutral, name


def test_what_is_used_or_ignored_is_accepted_with_a_sensible_value(url: str) -> None:
    for name, value in SENSIBLE.items():
        answer = httpx2.post(url, json=ASK | NEEDS.get(name, {}) | {name: value})
        assert answer.status_code == 200, (name, answer.text)


def test_what_is_rejected_is_refused_with_its_note(url: str, engine: FakeEngine) -> None:
    for name, value in REFUSED.items():
        if value is None:
            continue  # every value of it asks for nothing
        answer = httpx2.post(url, json=ASK | {name: value})
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", name)
        if CHAT[name].support != "leader":  # these say what this Leader lacks
            rejected = CHAT[name].support == "rejected"
            assert (CHAT[name].note if rejected else "a Leader on another server") in error["message"], name
    assert engine.leader.calls == []


def test_a_rejected_parameter_that_asks_for_nothing_is_accepted(url: str) -> None:
    for name, parameter in CHAT.items():
        for value in parameter.neutral:
            answer = httpx2.post(url, json=ASK | {name: value})
            assert answer.status_code == 200, (name, value, answer.text)


def test_what_is_for_a_leader_elsewhere_is_refused_where_a_draft_is_given(url: str) -> None:
    answer = httpx2.post(url, json=ASK | {"refine": {"draft": "d"}, "tools": SENSIBLE["tools"]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")


@pytest.mark.parametrize("refine", [{}, {"draft": "d"}])
@pytest.mark.parametrize(
    "unused",
    [
        {"tools": SENSIBLE["tools"], "tool_choice": "none"},
        {"tools": SENSIBLE["tools"], "tool_choice": "none", "parallel_tool_calls": False},
        {"functions": REFUSED["functions"], "function_call": "none"},
        {"tools": [], "tool_choice": "auto"},
        {"tools": None, "tool_choice": None},
        {"parallel_tool_calls": True},
    ],
)
def test_tools_that_may_not_be_called_ask_for_nothing(
    url: str, engine: FakeEngine, refine: dict[str, Any], unused: dict[str, Any]
) -> None:
    answer = httpx2.post(url, json=ASK | {"refine": refine, **unused})
    assert answer.status_code == 200, answer.text
    assert [turn.role for turn in engine.follower.calls[0][0]] == ["user", "assistant", "user"]


@pytest.mark.parametrize("choice", [None, "auto", "required", {"type": "function", "function": {"name": "look_up"}}])
def test_tools_that_may_be_called_are_refused_beside_a_draft_with_what_to_do(url: str, choice: Any) -> None:
    asked = {"tools": SENSIBLE["tools"], "tool_choice": choice, "stream": True, "refine": {"draft": "d"}}
    answer = httpx2.post(url, json=ASK | asked)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "tools")
    for way in ("leave it out", '"none"'):
        assert way in error["message"]


def test_true_is_no_one_and_zero_is_no_false(url: str) -> None:
    for name, value in {"best_of": True, "echo": 0, "priority": False, "length_penalty": True}.items():
        answer = httpx2.post(url, json=ASK | {name: value})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


@pytest.mark.parametrize("wanted", [True, False, None])
@pytest.mark.parametrize("name", ["include_usage", "include_obfuscation", "continuous_usage_stats"])
def test_every_option_of_streams_is_taken(url: str, name: str, wanted: bool | None) -> None:
    options = {"include_usage": True, name: wanted}
    for body in ({"messages": ASK["messages"]}, {"prompt": "what is it"}):
        path = url if "messages" in body else url.replace("/chat", "")
        answer = httpx2.post(path, json=body | {"stream": True, "stream_options": options})
        assert answer.status_code == 200, answer.text
        told = ['"refinement"' in line for line in answer.text.split("\n\n")[:-1]]
        assert told.count(True) == (wanted is True or name != "include_usage")


def test_an_unknown_option_of_streams_is_refused_by_name_unless_it_is_null(url: str) -> None:
    assert httpx2.post(url, json=ASK | {"stream_options": {"x": None}}).status_code == 200
    answer = httpx2.post(url, json=ASK | {"stream_options": {"x": False}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stream_options.x")


def test_what_is_ignored_changes_nothing(url: str, engine: FakeEngine) -> None:
    ignored = {name: SENSIBLE[name] for name, parameter in CHAT.items() if parameter.support == "ignored"}
    answers = [httpx2.post(url, json=body).json()["choices"] for body in (ASK, ASK | ignored)]
    assert answers[0] == answers[1]
    assert engine.leader.calls[0] == engine.leader.calls[1]
    assert [turns for turns, _ in engine.follower.calls[:1]] == [turns for turns, _ in engine.follower.calls[1:]]


@pytest.mark.parametrize("name", BOTH)
def test_sampling_reaches_both_roles_and_nothing_else_changes(url: str, engine: FakeEngine, name: str) -> None:
    body = ASK | NEEDS.get(name, {}) | {name: SENSIBLE[name]}
    assert httpx2.post(url, json=body).status_code == 200
    value = SENSIBLE[name]
    expected = AS_SAMPLED.get(name, {name: tuple(value) if isinstance(value, list) else value})
    for number, role in enumerate((engine.leader, engine.follower)):
        ((_, sampling),) = role.calls
        if name == "seed":  # each round draws with one of its own
            expected = {"seed": seed_of(value, 0, number)}
        asked = {
            key: getattr(sampling, key) for key in SamplingParams.__dataclass_fields__ if key != "max_total_tokens"
        }
        untouched = {key: getattr(SamplingParams(), key) for key in asked}
        assert asked == untouched | expected


def test_the_followers_own_wishes_override_the_shared_ones(url: str, engine: FakeEngine) -> None:
    shared = {"temperature": 0.5, "top_p": 0.25, "max_tokens": 11, "frequency_penalty": 0.5}
    own = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 5}
    assert httpx2.post(url, json=ASK | shared | {"refine": own}).status_code == 200
    for role, wished in ((engine.leader, shared), (engine.follower, shared | own)):
        ((_, sampling),) = role.calls
        assert {key: getattr(sampling, key) for key in wished} == wished


def test_one_stop_string_is_a_list_of_one(url: str, engine: FakeEngine) -> None:
    assert httpx2.post(url, json=ASK | {"stop": "END"}).status_code == 200
    assert [sampling.stop for _, sampling in engine.follower.calls] == [("END",)]


def test_both_names_of_max_tokens_at_once_are_refused(url: str) -> None:
    answer = httpx2.post(url, json=ASK | {"max_tokens": 5, "max_completion_tokens": 6})
    assert answer.status_code == 400
    assert "not both" in answer.json()["error"]["message"]
