import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from slhf import InputError, Options
from slhf._lines import Keys, Line, contents, read_lines
from slhf._source import Source


def lines_of(tmp_path: Path, *lines: Any, keys: Keys | None = None, options: Options | None = None) -> list[Line]:
    source = tmp_path / "in.jsonl"
    source.write_bytes(
        b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    )
    with Source(source) as opened:
        return list(read_lines(opened, keys or Keys(), options or Options()))


def keys_of(source: Path) -> frozenset[str]:
    with Source(source) as opened:
        return contents(opened, Keys(), Options()).keys


def test_a_line_is_a_prompt_or_messages_with_options(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "why?"}]
    first, second = lines_of(
        tmp_path,
        {"id": "a", "prompt": "why?", "draft": "so", "refine": {"rounds": 2}},
        {"messages": turns, "refine": {"temperature": 0.5}},
    )
    assert (first.id, first.conversation, first.options) == ("a", "why?", {"draft": "so", "rounds": 2})
    assert (second.id, second.conversation, second.options) == (2, turns, {"temperature": 0.5})


def test_blank_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    assert [line.id for line in lines_of(tmp_path, b"\n", {"prompt": "a"}, b"  \r\n", {"prompt": "b"})] == [2, 4]


def test_the_options_of_all_lines_win_over_those_of_one(tmp_path: Path) -> None:
    every = Options(rounds=1, model="duo", top_p=None)
    own = {"rounds": 3, "top_p": 0.5, "max_tokens": None}
    (line,) = lines_of(tmp_path, {"prompt": "a", "refine": own}, options=every)
    assert line.options == {"rounds": 1, "model": "duo", "top_p": 0.5}
    assert every == {"rounds": 1, "model": "duo", "top_p": None}


def test_columns_of_any_name_are_the_users_own_and_those_named_like_options_are_told(tmp_path: Path) -> None:
    own = {
        "model": "gpt-4",
        "temperature": "0.7",
        "rounds": [],
        "instruction": "x",
        "stream": True,
        "on_error": 7,
        "n": 1,
    }
    (line,) = lines_of(tmp_path, {"prompt": "a", "draft": "b", **own})
    assert line.options == {"draft": "b"}
    assert line.fields.items() >= own.items()
    with Source(tmp_path / "in.jsonl") as source:
        found = contents(source, Keys(), Options())
        assert found.like_options == {"model", "temperature", "rounds", "instruction", "on_error"}
        named = contents(source, Keys(prompt="instruction", draft="model"), Options())
    assert named.like_options == {"temperature", "rounds", "on_error"}


def test_prompt_and_draft_may_lie_in_other_fields(tmp_path: Path) -> None:
    fields = {"instruction": "why?", "output": "so", "draft": "not this", "prompt": "nor this"}
    (line,) = lines_of(tmp_path, fields, keys=Keys(prompt="instruction", draft="output"))
    assert (line.conversation, line.options) == ("why?", {"draft": "so"})


def test_a_named_prompt_may_be_messages(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "why?"}]
    (line,) = lines_of(tmp_path, {"chat": turns}, keys=Keys(prompt="chat"))
    assert line.conversation == turns


def test_an_empty_draft_is_a_draft(tmp_path: Path) -> None:
    (line,) = lines_of(tmp_path, {"prompt": "a", "draft": ""})
    assert line.options == {"draft": ""}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{\n", "Expecting property name"),
        (b"[1]\n", "not a JSON object"),
        (b'{"prompt": "\xff"}\n', "codec can't decode"),
        (b'{"prompt": "\\ud800"}\n', "half of a surrogate pair"),
        (b'{"prompt": "a", "x": NaN}\n', "NaN is not JSON"),
        (b'{"prompt": "a", "x": -Infinity}\n', "-Infinity is not JSON"),
        (b'{"prompt": "a", "x": 1e999}\n', "too large"),
        (b'{"prompt": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "nested too deeply"),
        (b'{"prompt": "a", "x": ' + b"1" * 5000 + b"}\n", "is too long"),
        ('{"prompt": "a"}\n'.encode("utf-16"), "codec can't decode"),
        ({"draft": "so"}, "exactly one of 'prompt' and 'messages'"),
        ({"prompt": "a", "messages": []}, "exactly one of 'prompt' and 'messages'"),
        ({"prompt": 3}, "a prompt is a string"),
        ({"prompt": "a", "draft": 3}, "draft: "),
        ({"prompt": "a", "refine": {"rounds": -1}}, "rounds: "),
        ({"prompt": "a", "refine": {"temperature": 9}}, "temperature: "),
        ({"prompt": "a", "refine": {"temprature": 1}}, "refine.temprature: not an option"),
        ({"prompt": "a", "refine": {"stream": True}}, "refine.stream: not an option"),
        ({"prompt": "a", "refine": True}, "refine: it holds the options of the line"),
        ({"prompt": "a", "draft": "b", "refine": {"draft": "c"}}, "refine.draft: the line has a draft besides"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages.0.role: "),
        ({"id": True, "prompt": "a"}, "id must be"),
        ({"id": None, "prompt": "a"}, "id must be"),
        ({"id": 1.5, "prompt": "a"}, "id must be"),
    ],
)
def test_a_line_that_cannot_be_sent_is_named(tmp_path: Path, line: Any, problem: str) -> None:
    with pytest.raises(InputError) as raised:
        lines_of(tmp_path, {"prompt": "good"}, line)
    assert str(raised.value).startswith(f"{tmp_path / 'in.jsonl'}:2: ")
    assert problem in str(raised.value)


@pytest.mark.parametrize(("keys", "missing"), [(Keys(draft="output"), "output"), (Keys(prompt="question"), "question")])
def test_a_field_that_was_named_must_be_in_every_line(tmp_path: Path, keys: Keys, missing: str) -> None:
    with pytest.raises(InputError, match=f":1: the line has no '{missing}'"):
        lines_of(tmp_path, {"prompt": "why?"}, keys=keys)


@pytest.mark.parametrize("again", [{"id": "a", "prompt": "y"}, {"id": "2", "prompt": "y"}])
def test_an_id_that_comes_twice_is_named_with_both_lines(tmp_path: Path, again: dict[str, str]) -> None:
    first = 1 if again["id"] == "a" else 2
    lines_of(tmp_path, {"id": "a", "prompt": "x"}, {"prompt": "x"}, {"id": "b", "prompt": "x"}, again)
    with pytest.raises(InputError, match=f":4: id '{again['id']}' is that of line {first} too"):
        keys_of(tmp_path / "in.jsonl")


def test_a_gzipped_file_is_read_as_a_plain_one(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl.gz"
    source.write_bytes(gzip.compress(b'\xef\xbb\xbf{"id": "a", "prompt": "x"}\r\n{"prompt": "y"}'))
    assert keys_of(source) == {"a", "2"}
    unnamed = source.rename(tmp_path / "in.jsonl")
    assert keys_of(unnamed) == {"a", "2"}


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf\n", gzip.compress(b"")])
def test_an_input_without_a_line_is_named(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(content)
    with pytest.raises(InputError, match=r"in\.jsonl: it holds no line"):
        keys_of(source)


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    assert [line.id for line in lines_of(tmp_path, b'\xef\xbb\xbf{"prompt": "a"}\r\n', {"prompt": "b"})] == [1, 2]


@pytest.mark.parametrize("content", [b"plain", gzip.compress(b'{"prompt": "x"}\n' * 99)[:-12]])
def test_a_broken_gzip_file_is_named(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "in.jsonl.gz"
    source.write_bytes(content)
    with pytest.raises(InputError, match="in.jsonl.gz: broken gzip file"):
        keys_of(source)
