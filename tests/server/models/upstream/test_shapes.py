"""Answers in the shapes that servers give them: what is read, and what is passed over."""

import json
import logging
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slhf_server.models.base import Chunk
from slhf_server.models.upstream.answer import Completion, ErrorInAnswer, UnusableAnswer
from slhf_server.models.upstream.events import Values
from slhf_server.observability.metrics import Metrics

THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "SECRET"}]}


def read(*values: Any) -> tuple[str, Chunk]:
    """The text of an answer in these pieces, and its last chunk."""
    completion = Completion("cloud")
    text = "".join(chunk.text for chunk in completion.chunks(values))
    last = completion.last()
    return text + last.text, last


def whole(message: Any, finish_reason: Any = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]} | more


def piece(delta: Any, finish_reason: Any = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


ENDS = piece({}, "stop")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("hello", "hello"),
        (None, ""),
        ([], ""),
        ([{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}], "hello"),
        ([THINKING, {"type": "text", "text": "hello"}], "hello"),
        ([{"type": "reasoning", "text": "SECRET"}, {"type": "text", "text": "hello"}], "hello"),
        ([{"type": "redacted_thinking", "data": "SECRET"}, "hello"], "hello"),
        ([{"type": "output_text", "text": "hello", "annotations": []}], "hello"),
        ([{"type": "text", "text": {"value": "hello", "annotations": []}}], "hello"),
        ([{"type": "text", "text": [{"type": "text", "text": "hello"}]}], "hello"),
        ([{"type": "text", "content": "hello"}], "hello"),
        ([{"type": "text", "text": "hello"}, {"type": "reference", "reference_ids": [1]}], "hello"),
        ([{"type": "text", "text": "hello"}, {"type": "image_url", "image_url": {"url": "SECRET"}}], "hello"),
        ([{"type": "refusal", "refusal": "no"}], "no"),
        ([{"text": "hello"}], "hello"),
        ([{"type": "text", "text": None}, None, 5, {"type": "text", "text": "hello"}], "hello"),
        ({"type": "text", "text": "hello"}, "hello"),
    ],
)
def test_the_text_parts_of_a_content_are_its_text(content: Any, text: str) -> None:
    assert read(whole({"content": content}))[0] == text
    assert read(piece({"content": content}), ENDS)[0] == text


@pytest.mark.parametrize("content", [5, True, {"city": "Bern"}])
def test_a_content_that_is_no_text_is_no_answer(content: Any) -> None:
    with pytest.raises(UnusableAnswer):
        read(whole({"content": content}))


def test_a_message_said_again_at_the_end_of_its_stream_is_no_more_text() -> None:
    assert read(piece({"content": "hel"}), piece({"content": "lo"}), whole({"content": "hello"}))[0] == "hello"


@pytest.mark.parametrize("before", [piece(None), piece({}), {"choices": None}, {"choices": [None]}, {}])
def test_what_says_nothing_is_passed_over(before: Any) -> None:
    assert read(before, piece({"content": "hello"}), ENDS)[0] == "hello"


def test_characters_that_were_cut_into_halves_are_whole_again() -> None:
    assert read(piece({"content": "a\ud83d"}), piece({"content": "\ude00b"}), ENDS)[0] == "a😀b"
    assert read(whole({"content": "\ud83d\ude00"}))[0] == "😀"


@pytest.mark.parametrize("text", ["a\ud83d", "\ude00a", "a\ud83db", "\ud83d\ud83d"])
def test_half_a_character_alone_is_none(text: str) -> None:
    got, _ = read(piece({"content": text}), ENDS)
    assert "\ufffd" in got
    got.encode()


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("stop", "stop"),
        ("STOP", "stop"),
        ("eos", "stop"),
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("COMPLETE", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("MAX_TOKENS", "length"),
        ("model_length", "length"),
        ("content_filter", "content_filter"),
        ("SAFETY", "content_filter"),
        ("tool_calls", "stop"),  # and there are none
    ],
)
def test_reasons_are_openais(said: str, meant: str) -> None:
    assert read(whole({"content": "x"}, said))[1].finish_reason == meant


@pytest.mark.parametrize("said", [None, "", 5, "error", "abort", "insufficient_system_resource"])
def test_without_a_reason_an_answer_is_not_whole(said: Any) -> None:
    with pytest.raises(UnusableAnswer):
        read(whole({"content": "x"}, said))


def test_a_blank_reason_in_every_piece_is_none() -> None:
    assert read(piece({"content": "hello"}, ""), piece({}, "length"), piece({}, ""))[1].finish_reason == "length"


def call(name: str | None, arguments: Any, *, id: str | None = None, **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments} | ({} if name is None else {"name": name})
    return {"function": function} | ({} if id is None else {"id": id}) | more


def calls_of(*pieces: list[Any], finish_reason: str = "tool_calls") -> list[tuple[str, str]]:
    """Name and arguments of each call, after checks that hold for all of them."""
    _, last = read(*[piece({"tool_calls": one}) for one in pieces], piece({}, finish_reason))
    assert all(set(made) >= {"id", "type", "function"} and "index" not in made for made in last.tool_calls)
    ids = [made["id"] for made in last.tool_calls]
    assert all(ids)
    assert len(set(ids)) == len(ids)
    assert last.finish_reason == "tool_calls"
    return [(made["function"]["name"], made["function"]["arguments"]) for made in last.tool_calls]


BERN, ROME = '{"city": "Bern"}', '{"city": "Rome"}'


@pytest.mark.parametrize(
    "pieces",
    [
        [[call("weather", BERN, id="a", index=0)], [call("weather", ROME, id="b", index=0)]],
        [[call("weather", BERN, id="a", index=0), call("weather", ROME, id="b", index=0)]],
        [[call("weather", BERN, id="a")], [call("weather", ROME, id="b")]],
        [[call("weather", BERN, id="a"), call("weather", ROME, id="b")]],
        [[call("weather", BERN, id="", index=0)], [call("weather", ROME, id="", index=0)]],
        [[call("weather", BERN, index=0)], [call("weather", ROME, index=0)]],
        [[call("weather", BERN), call("weather", ROME)]],
        [[call("weather", BERN, index="0")], [call("weather", ROME, index=None)]],
        [[call("weather", {"city": "Bern"}, index=0)], [call("weather", {"city": "Rome"}, index=1)]],
        [  # the second is cut at an index that is not its own
            [call("weather", BERN, id="a", index=0)],
            [call("weather", "", id="b", index=0)],
            [call(None, '{"city": ', index=0)],
            [call(None, '"Rome"}', index=0)],
        ],
        [[None, "noise", {}, call("weather", BERN, id="a", index=0)], [call("weather", ROME, id="b", index=1)]],
    ],
)
def test_two_calls_are_two_whatever_their_index_and_ids(pieces: list[Any]) -> None:
    assert calls_of(*pieces) == [("weather", BERN), ("weather", ROME)]


@pytest.mark.parametrize(
    "pieces",
    [
        [[call("weather", '{"city": ', id="a", index=0)], [call(None, '"Bern"}', index=0)]],
        [[call("weather", '{"city": ', id="a", index=0)], [call("weather", '"Bern"}', id="a", index=0)]],
        [[call("weather", '{"city": ', id="a", index=0)], [call("weather", '"Bern"}', id="b", index=0)]],
        [[call("weather", '{"city": ', id="a")], [call(None, '"Bern"}')]],
        [[call("weather", "", id="a", index=0)], [call("weather", BERN, id=None, index=0)]],
        [[call("weather", BERN, id="a", index=0)], [call("weather", "", index=0)]],
        [[call("weather", None, id="a", index=0)], [call(None, BERN, index=0)]],
    ],
)
def test_one_call_is_one_however_it_is_cut(pieces: list[Any]) -> None:
    assert calls_of(*pieces) == [("weather", BERN)]


@pytest.mark.parametrize("arguments", [None, "", " "])
@pytest.mark.parametrize("finish_reason", ["stop", "tool_use", "STOP"])
def test_a_call_without_arguments_has_an_empty_object(arguments: Any, finish_reason: str) -> None:
    assert calls_of([call("now", arguments, id="a")], finish_reason=finish_reason) == [("now", "{}")]


def test_a_legacy_call_is_a_tool_call() -> None:
    _, last = read(whole({"content": None, "function_call": {"name": "now", "arguments": "{}"}}, "function_call"))
    assert [made["function"] for made in last.tool_calls] == [{"name": "now", "arguments": "{}"}]
    both = {"function_call": {"name": "now"}, "tool_calls": [call("now", "{}", id="a")]}
    assert len(read(whole(both))[1].tool_calls) == 1


def test_what_a_provider_adds_to_a_call_is_kept() -> None:
    signed = call("now", "{}", id="a", type="function", extra_content={"google": {"thought_signature": "x"}})
    assert read(whole({"tool_calls": [signed]}))[1].tool_calls == (signed,)


def test_a_tool_of_the_clients_own_kind_is_kept() -> None:
    custom = {"id": "a", "type": "custom", "custom": {"name": "shell", "input": "ls"}}
    assert read(whole({"tool_calls": [custom]}))[1].tool_calls == (custom,)


def test_no_call_holds_half_a_character() -> None:
    _, last = read(
        piece({"tool_calls": [call("f", '{"a": "\ud83d', id="a")]}), piece({"tool_calls": [call(None, '"}')]}), ENDS
    )
    json.dumps(last.tool_calls, ensure_ascii=False).encode()


@pytest.mark.parametrize("odd", [-5, "7", 2**53, 2**63, 1e300, [], {}, True, math.inf, math.nan])
def test_usage_that_cannot_be_is_ignored_and_logged(odd: Any, caplog: pytest.LogCaptureFixture) -> None:
    usage = {"prompt_tokens": odd, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": odd}}
    with caplog.at_level(logging.WARNING, "slhf_server"):
        _, last = read(whole({"content": "x"}, usage=usage))
    assert (last.prompt_tokens, last.cached_tokens, last.completion_tokens) == (0, 0, 7)
    assert "usage that cannot be is ignored" in caplog.text


@pytest.mark.parametrize(
    "usage", [None, "none", [], 5, {}, {"prompt_tokens_details": 5, "completion_tokens_details": []}]
)
def test_usage_of_another_shape_is_none(usage: Any) -> None:
    _, last = read(whole({"content": "x"}, usage=usage))
    assert (last.prompt_tokens, last.completion_tokens, last.reasoning_tokens) == (0, 0, 0)


def test_no_part_of_the_usage_is_more_than_the_whole() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 9}, "completion_tokens_details": {"reasoning_tokens": 9}}
    _, last = read(whole({"content": "x"}, usage={"prompt_tokens": 5, "completion_tokens": 3.0} | details))
    assert (last.cached_tokens, last.completion_tokens, last.reasoning_tokens) == (5, 3, 3)


def test_usage_beside_the_choice_is_read_too() -> None:
    last = {"choices": [{"delta": {}, "finish_reason": "stop", "usage": {"prompt_tokens": 5, "completion_tokens": 3}}]}
    assert read(piece({"content": "x"}), last)[1].completion_tokens == 3


@pytest.mark.parametrize(
    "logprobs",
    [
        True,
        [],
        {"content": "x"},
        {"tokens": ["x"], "token_logprobs": [-0.1], "top_logprobs": [{"x": -0.1}]},
        {"content": [{"token": "x"}]},
        {"content": [{"token": "x", "logprob": None}]},
        {"content": [{"token": "x", "logprob": -math.inf}]},
        {"content": [{"token": "x", "logprob": -1, "top_logprobs": {"x": -1}}]},
    ],
)
def test_log_probabilities_of_another_shape_are_passed_over(logprobs: Any) -> None:
    completion = Completion("cloud")
    choice = {"message": {"content": "x"}, "logprobs": logprobs, "finish_reason": "stop"}
    assert completion.take({"choices": [choice]}) == Chunk("x", 0)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"code": 429}, 429),
        ({"code": "502"}, 502),
        ({"code": "rate_limit_exceeded"}, 429),
        ({"type": "overloaded_error", "message": "x"}, 503),
        ({"code": None, "type": "server_error"}, 500),
        ({"code": "context_length_exceeded"}, 400),
        ({"code": 3001}, None),
        ({"message": "x"}, None),
        ("busy", None),
        ([1], None),
    ],
)
@pytest.mark.parametrize("place", ["top", "choice"])
def test_an_error_where_an_answer_was_due_says_its_status(error: Any, status: int | None, place: str) -> None:
    value = {"error": error} if place == "top" else {"choices": [{"delta": {}, "error": error}]}
    with pytest.raises(ErrorInAnswer) as raised:
        read(value)
    assert (raised.value.status, raised.value.begun) == (status, False)
    with pytest.raises(ErrorInAnswer) as raised:
        read(piece({"content": "x"}), value)
    assert raised.value.begun


def test_no_error_is_none() -> None:
    assert read(whole({"content": "x"}, error=None))[0] == "x"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(
            "choices delta message content text type function name arguments id index usage prompt_tokens refusal "
            "completion_tokens finish_reason logprobs token logprob tool_calls function_call error code".split()
        ),
        inner,
        max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@given(st.lists(json_values | json_values.map(lambda value: {"choices": [value], "usage": value}), max_size=4))
def test_whatever_is_answered_is_an_answer_or_an_unusable_one(values: list[Any]) -> None:
    completion = Completion("cloud")
    try:
        chunks = [*completion.chunks(values), completion.last()]
    except UnusableAnswer:
        return
    counted = Metrics().prompt_tokens.labels("m", "draft")
    for chunk in chunks:
        chunk.text.encode()
        counted.inc(chunk.prompt_tokens)
    json.dumps(chunks[-1].tool_calls, ensure_ascii=False, allow_nan=False).encode()


def values_of(*pieces: bytes) -> list[Any]:
    values = Values()
    read = [value for one in pieces for value in values.feed(one)]
    return read if values.done else read + values.end()


@pytest.mark.parametrize(
    "content",
    [
        b'data: {"a": 1}\n\ndata: [DONE]\n\n',
        b'data:{"a": 1}\r\n\r\ndata:[DONE]\r\n\r\n',
        b': ping\n\n: ping\n\nevent: message\nid: 5\nretry: 9\ndata: {"a":\ndata: 1}\n\ndata: [DONE]\n\n{"a": 2}',
        b'\xef\xbb\xbfdata: {"a": 1}\n\n',
        b'data: {"a": 1}',
        b'data: {"a": 1}\n\ndata:\n\ndata: [DONE]',
        b'\n\n \n{"a": 1}\n',
        b'\xef\xbb\xbf{"a": 1}',
    ],
)
def test_values_are_read_however_the_bytes_are_cut(content: bytes) -> None:
    assert values_of(content) == [{"a": 1}]
    assert values_of(*[content[i : i + 1] for i in range(len(content))]) == [{"a": 1}]


def test_numbers_that_json_does_not_have_are_as_if_not_given() -> None:
    assert values_of(b'{"a": NaN, "b": -Infinity, "c": 1e999, "d": 1.5}') == [
        {"a": None, "b": None, "c": None, "d": 1.5}
    ]


def feed_without_end(piece: bytes) -> None:
    values = Values()
    values.feed(piece)
    fed = len(piece)
    while fed <= 64 << 20:
        values.feed(piece if piece.endswith(b"\n\n") else b"x" * 65536)
        fed += 65536


@pytest.mark.parametrize(
    "piece", [b"data: ", b'{"a": "', b"data: " + json.dumps({"a": "x" * 65536}).encode() + b"\n\n"]
)
def test_what_never_ends_is_cut(piece: bytes) -> None:
    with pytest.raises(UnusableAnswer):
        feed_without_end(piece)


def test_comments_without_end_fill_nothing() -> None:
    values = Values()
    assert values.feed(b": ping\n\n" * 1000) == []
    assert values.feed(b'data: {"a": 1}\n\n') == [{"a": 1}]
