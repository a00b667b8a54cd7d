import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slhf.sse import Decoder, ServerSentEvent


def decoded(stream: bytes) -> list[tuple[str, str]]:
    return [(event.event, event.data) for event in Decoder().feed(stream)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [("message", "a")]),
        (b"event: round.delta\ndata: a\n\n", [("round.delta", "a")]),
        (b"event: x\ndata: a\n\ndata: b\n\n", [("x", "a"), ("message", "b")]),
        (b"data: a\ndata: b\n\n", [("message", "a\nb")]),
        (b"data: a\r\ndata: b\r\n\r\n", [("message", "a\nb")]),
        (b"data: a\rdata: b\r\r", [("message", "a\nb")]),
        (b": ping\n\n", []),
        (b"data: a\n: ping\ndata: b\n\n", [("message", "a\nb")]),
        (b"data:a\ndata:  b\n\n", [("message", "a\n b")]),
        (b"data\n\n", [("message", "")]),
        (b'data: {"a": 1}\nid: 7\nretry: 10\nfoo: bar\n\n', [("message", '{"a": 1}')]),
        (b"event: x\n\ndata: a\n\n", [("message", "a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [("message", "a")]),
        (b"data: a\n\ndata: unfinished\n", [("message", "a")]),
        ("data: a\u2028b\x85c\x0bd\n\n".encode(), [("message", "a\u2028b\x85c\x0bd")]),
        (b"data: \xff\n\n", [("message", "\ufffd")]),
    ],
)
def test_a_stream_is_decoded_as_the_standard_says(stream: bytes, expected: list[tuple[str, str]]) -> None:
    assert decoded(stream) == expected


pieces = st.sampled_from(["data: ", "event: x", ": ping", "\n", "\r", "\r\n", "\n\n", "é", "😀", "\ufeff", "a", ":"])


@given(st.lists(pieces).map("".join).map(str.encode), st.data())
def test_any_chunking_gives_the_same_events(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    decoder = Decoder()
    events = [
        event
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for event in decoder.feed(stream[start:end])
    ]
    assert events == Decoder().feed(stream)


texts = st.text(alphabet='a:\n\r "\\é😀\u2028\x85')


@given(st.lists(st.dictionaries(texts, texts)))
def test_json_data_arrives_as_it_was_sent(bodies: list[dict[str, str]]) -> None:
    stream = "".join(f"event: e\ndata: {json.dumps(body, ensure_ascii=False)}\n\n" for body in bodies)
    assert [json.loads(event.data) for event in Decoder().feed(stream.encode())] == bodies


def test_an_event_is_handed_out_with_its_blank_line_even_if_that_is_a_lone_carriage_return() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: a\r\r") == [ServerSentEvent("message", "a")]
    assert decoder.feed(b"\ndata: b\n\n") == [ServerSentEvent("message", "b")]


def test_a_long_line_in_small_chunks_is_not_scanned_again_with_each() -> None:
    """In an order of growth, not in seconds: the pieces of an unfinished line are kept as they came."""
    decoder = Decoder()
    for _ in range(1000):
        assert decoder.feed(b"x" * 10) == []
    assert decoder._line == ["x" * 10] * 1000
    assert Decoder().feed(b"data: " + b"x" * 10 + b"\n\n") == [ServerSentEvent("message", "x" * 10)]
