"""RFC 8259 is the oracle: what it has is read, everything else is a ValueError that says what is wrong."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slhf.json_text import read_json, read_json_lines

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_what_json_can_say_is_read(value: object) -> None:
    text = json.dumps(value)
    assert read_json(text) == value
    assert read_json(text.encode()) == value


@pytest.mark.parametrize("mark", ["\ufeff", ""])
def test_a_byte_order_mark_is_read_over(mark: str) -> None:
    assert read_json(f"{mark}[1]") == [1]
    assert read_json(f"{mark}[1]".encode()) == [1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("NaN", "NaN is not JSON"),
        ('{"a": [-Infinity]}', "-Infinity is not JSON"),
        ("1e999", "too large"),
        ("[-1e400]", "too large"),
        (r'"\ud800"', "surrogate"),
        (r'{"\udfff": 1}', "surrogate"),
        ("[" * 200_000 + "]" * 200_000, "nested too deeply"),
        ("", "Expecting value"),
        ("{} {}", "Extra data"),
        ("{'a': 1}", "property name"),
    ],
)
def test_what_it_cannot_say_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_json(text)
    with pytest.raises(ValueError, match=reason):
        read_json(text.encode())


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert read_json(r'"\ud83d\ude00"') == "😀"


@pytest.mark.parametrize("data", [b"\xff", '"caf\u00e9"'.encode("latin-1"), b'"\xed\xa0\x80"'])
def test_bytes_that_are_not_utf8_are_refused(data: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        read_json(data)


def test_lines_keep_their_numbers_and_blank_ones_are_left_out() -> None:
    lines = [b'\xef\xbb\xbf{"a": 1}\r\n', b"\n", b" \t\r\n", b"2\n", b"3"]
    assert list(read_json_lines(lines, "x")) == [(1, {"a": 1}), (4, 2), (5, 3)]


def test_a_line_that_is_wrong_is_named_by_its_place() -> None:
    with pytest.raises(ValueError, match=r"^a\.jsonl:3: not JSON: NaN is not JSON"):
        list(read_json_lines([b"1\n", b"\n", b"NaN\n"], "a.jsonl"))
