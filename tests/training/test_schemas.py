"""Rows as the data sets' own cards show them, each read as the chat, the answers and nothing less."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from slhf_training.cli import main
from slhf_training.data import Example, Pair, Scores
from slhf_training.data.formats import helpsteer2
from slhf_training.data.load import read_jsonl
from slhf_training.data.rows import HELPSTEER2
from slhf_training.errors import DataError
from slhf_training.evaluation.prompts import prompt_id, read_drafts
from slhf_training.types import Chat, Message


def turns(*contents: str, system: str = "") -> Chat:
    """A chat of user and assistant in turn."""
    said = [Message(role=("user", "assistant")[i % 2], content=content) for i, content in enumerate(contents)]
    return [*([Message(role="system", content=system)] if system else []), *said]


def openai(*contents: str, system: str = "") -> list[dict[str, str]]:
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns(*contents, system=system)]


def sharegpt(*contents: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": content} for i, content in enumerate(contents)]


def hh(*contents: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {content}" for i, content in enumerate(contents))


def read(tmp_path: Path, *rows: Any) -> list[Example]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_jsonl(path))


QUESTIONS = [
    ({"instruction": "Translate to French.", "input": "Good morning."}, turns("Translate to French.\n\nGood morning.")),
    ({"instruction": "Say hi.", "input": ""}, turns("Say hi.")),
    ({"instruction": "Say hi.", "input": None}, turns("Say hi.")),
    ({"instruction": "Sum up.", "context": "A text."}, turns("Sum up.\n\nA text.")),
    ({"instruction": "c", "history": [["a", "b"]]}, turns("a", "b", "c")),
    ({"instruction": "Say hi.", "system": "Be brief."}, turns("Say hi.", system="Be brief.")),
    ({"question": "q", "system_prompt": "s"}, turns("q", system="s")),
    ({"question": "q", "context": "c"}, turns("q\n\nc")),
    ({"query": "q"}, turns("q")),
    ({"input": "q", "system": "s"}, turns("q", system="s")),
    ({"prompt": "p", "messages": openai("other")}, turns("p")),
    ({"prompt": None, "messages": openai("q")}, turns("q")),
    ({"messages": openai("q", system="s"), "system": "s"}, turns("q", system="s")),
    ({"prompt": hh("q", "")}, turns("q")),
    ({"prompt": hh("a", "b", "c", "")}, turns("a", "b", "c")),
    ({"prompt": hh("q", "").lstrip()}, turns("q")),
    ({"prompt": "a\n<extra_id_1>Assistant\nb\n<extra_id_1>User\nc"}, turns("a", "b", "c")),
    ({"prompt": "a\n<extra_id_1>Assistant\nb\n<extra_id_1>User\nc\n<extra_id_1>Assistant\n"}, turns("a", "b", "c")),
    ({"prompt": "<extra_id_0>System\ns\n<extra_id_1>User\nq\n<extra_id_1>Assistant\n"}, turns("q", system="s")),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}]}, turns("q")),
    ({"prompt": "Human: what is that?"}, turns("Human: what is that?")),
]


@pytest.mark.parametrize(("row", "chat"), QUESTIONS)
def test_what_asks_is_read_whole(tmp_path: Path, row: dict[str, Any], chat: Chat) -> None:
    assert read(tmp_path, row)[0].chat == chat


@pytest.mark.parametrize(
    ("row", "chat", "reference"),
    [
        ({"instruction": "i", "input": "x", "output": "o"}, turns("i\n\nx"), "o"),
        ({"messages": openai("q", "a")}, turns("q"), "a"),
        ({"messages": openai("q", "a", "r", "b", system="s")}, turns("q", "a", "r", system="s"), "b"),
        ({"conversations": sharegpt("q", "a"), "system": "s"}, turns("q", system="s"), "a"),
        ({"conversation": sharegpt("q", "a", "r")}, turns("q", "a", "r"), ""),
        ({"question": "q", "answer": "a"}, turns("q"), "a"),
        ({"prompt": "p", "completion": "c"}, turns("p"), "c"),
        ({"prompt": openai("p"), "completion": [{"role": "assistant", "content": "c"}]}, turns("p"), "c"),
        ({"prompt": "p", "answer": ["a", "b"]}, turns("p"), ""),
        ({"prompt": "p", "output": "o", "reference": "r"}, turns("p"), "r"),
    ],
)
def test_a_good_answer_is_the_reference(tmp_path: Path, row: dict[str, Any], chat: Chat, reference: str) -> None:
    (example,) = read(tmp_path, row)
    assert (example.chat, example.reference) == (chat, reference)
    assert example.scores is None


@pytest.mark.parametrize(
    ("row", "scores"),
    [
        ({"instruction": "i", "context": "", "response": "r", "category": "qa"}, Scores("r", {})),
        ({"prompt": "p", "response": "r", **dict.fromkeys(HELPSTEER2, 3)}, Scores("r", dict.fromkeys(HELPSTEER2, 3.0))),
        ({"prompt": "p", "completion": "c", "label": False}, Scores("c", {"label": 0.0})),
        ({"prompt": "p", "completion": "c", "label": True}, Scores("c", {"label": 1.0})),
        ({"prompt": "p", "completion": "c", "label": 0}, Scores("c", {"label": 0.0})),
        ({"prompt": "p", "completion": "c", "label": 1.0}, Scores("c", {"label": 1.0})),
        ({"instruction": "i", "output": "o", "generator": "gpt"}, Scores("o", {})),
    ],
)
def test_an_answer_that_is_scored_or_nobodys_best_is_a_response(
    tmp_path: Path, row: dict[str, Any], scores: Scores
) -> None:
    (example,) = read(tmp_path, row)
    assert (example.scores, example.reference) == (scores, "")


def says(answer: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": answer}]


@pytest.mark.parametrize(
    ("row", "chat"),
    [
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, turns("p")),
        ({"prompt": openai("p", system="s"), "chosen": says("c"), "rejected": says("r")}, turns("p", system="s")),
        ({"prompt": "p", "chosen": says("c"), "rejected": says("r")}, turns("p")),
        ({"chosen": openai("p", "c"), "rejected": openai("p", "r")}, turns("p")),
        ({"prompt": "p", "chosen": openai("p", "c"), "rejected": openai("p", "r")}, turns("p")),
        (
            {"prompt": "p", "chosen": openai("p", "c", system="s"), "rejected": openai("p", "r", system="s")},
            turns("p", system="s"),
        ),
        (
            {"prompt": "a", "chosen": openai("a", "b", "d", "c"), "rejected": openai("a", "b", "d", "r")},
            turns("a", "b", "d"),
        ),
        (
            {
                "prompt": openai("a", "b", "d"),
                "chosen": openai("a", "b", "d", "c"),
                "rejected": openai("a", "b", "d", "r"),
            },
            turns("a", "b", "d"),
        ),
        ({"chosen": hh("a", "b", "d", "c"), "rejected": hh("a", "b", "d", "r")}, turns("a", "b", "d")),
        ({"prompt": hh("p", ""), "chosen": "c", "rejected": "r"}, turns("p")),
        ({"prompt": hh("p", ""), "chosen": hh("p", "c"), "rejected": hh("p", "r")}, turns("p")),
        (
            {
                "conversations": sharegpt("p"),
                "chosen": {"from": "gpt", "value": "c"},
                "rejected": {"from": "gpt", "value": "r"},
            },
            turns("p"),
        ),
        ({"system": "s", "question": "p", "chosen": "c", "rejected": "r"}, turns("p", system="s")),
        ({"instruction": "i", "input": "x", "chosen": "c", "rejected": "r"}, turns("i\n\nx")),
    ],
)
def test_a_pair_is_two_answers_to_the_chat_that_both_share(tmp_path: Path, row: dict[str, Any], chat: Chat) -> None:
    (example,) = read(tmp_path, row)
    assert example.pair == Pair("c", "r")
    assert example.chat == chat


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"chosen": "c", "rejected": "r"}, "prompt: Field required"),
        ({"chosen": openai("p", "c"), "rejected": openai("q", "r")}, "they do not share all but their last turn"),
        ({"chosen": hh("p", "c"), "rejected": hh("q", "r")}, "they do not share all but their last turn"),
        (
            {"prompt": "p", "chosen": openai("q", "c"), "rejected": openai("q", "r")},
            "chosen: it does not go on from the",
        ),
        ({"prompt": "p", "chosen": openai("p"), "rejected": says("r")}, "chosen: its last turn is not the assistant's"),
        ({"prompt": "p", "chosen": says("c"), "rejected": []}, "rejected: its last turn is not the assistant's"),
        ({"prompt": "p", "chosen": says("c")}, "chosen"),
        ({"prompt": "p", "chosen": says("c"), "rejected": 3}, "rejected: Input should be a valid string"),
        ({"messages": openai("q", "a", "r") + [{"role": "tool", "content": "x"}]}, "must end with the user's turn"),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [{}]}]},
            "messages.1: calls of",
        ),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0: its content is not a text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0: a part that is no text"),
        ({"messages": ["q"]}, "messages.0: not a message"),
        ({"conversations": [{"from": "function_call", "value": "f"}]}, "conversations.0: a turn of 'function_call'"),
        ({"messages": openai("q", system="s"), "system": "t"}, "system: the conversation begins with another"),
        ({"instruction": "i", "input": {"x": 1}}, "input: not a text"),
        ({"instruction": "i", "history": ["a"]}, "history: not a list of pairs"),
        ({"instruction": "", "input": " "}, "must end with the user's turn"),
        ({"prompt": "p", "completion": "c", "label": 2}, "label: neither true nor false"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_name(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError) as raised:
        read(tmp_path, row)
    assert str(raised.value).startswith(f"{tmp_path / 'rows.jsonl'}:1: ")
    assert problem in str(raised.value)


def test_columns_of_text_that_are_not_used_are_counted_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {
            "instruction": "i",
            "input": "x",
            "output": "o",
            "topic": "t",
            "n": 3,
            "tags": ["a"],
            "empty": "",
            "ratings": [1],
        },
        {"prompt": "p", "input": "x", "topic": "t", "id": "7", "source": "s", "good": True},
    ]
    with caplog.at_level(logging.WARNING):
        read(tmp_path, *rows)
    assert [record.message for record in caplog.records] == [
        f"{tmp_path / 'rows.jsonl'}: columns of text that are not used: topic (2 rows), tags (1 rows), input (1 rows)"
    ]


def test_a_row_that_is_used_whole_is_not_worth_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read(tmp_path, {"prompt": "p", "chosen": "c", "rejected": "r", "id": 1, "source": "s", "label": 3})
    assert caplog.records == []


def test_helpsteer2_has_prompts_of_several_turns() -> None:
    """The marks of its turns stand in the text of `prompt`; a row that does not end by asking is none."""
    row = {
        "prompt": "a\n<extra_id_1>Assistant\nb\n<extra_id_1>User\nc",
        "response": "r",
        **dict.fromkeys(HELPSTEER2, 1),
    }
    assert helpsteer2(row) == Example(turns("a", "b", "c"), None, Scores("r", dict.fromkeys(HELPSTEER2, 1.0)))
    assert helpsteer2({**row, "prompt": "a\n<extra_id_1>Assistant\nb"}) is None


def test_the_instructions_are_added_to_the_whole_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"instruction": "Translate to French.", "input": "Good morning.", "output": "Bonjour."},
        {"instruction": "Say hi.", "system": "Be brief."},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["add-instructions", str(tmp_path / "out.jsonl"), "--prompts", str(tmp_path / "a.jsonl")]) == 0
    (row,) = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    assert "Translate to French.\n\nGood morning." in row["prompt"]
    assert row["response"] == "Bonjour."
    assert "1 of 2 rows have more than one turn and were left out" in capsys.readouterr().err


def test_drafts_are_found_by_the_whole_prompt(tmp_path: Path) -> None:
    path = tmp_path / "drafts.jsonl"
    path.write_text(json.dumps({"instruction": "i", "input": "x", "output": "o", "generator": "gpt"}) + "\n")
    assert read_drafts(path, "gpt") == {prompt_id(turns("i\n\nx")): "o"}


def test_prompts_that_leave_nothing_to_write_are_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text("\n")
    assert main(["add-instructions", str(tmp_path / "out.jsonl"), "--prompts", str(tmp_path / "a.jsonl")]) == 1
    assert "none of 0 rows" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_is_a_finite_number_wherever_it_comes_from(value: float) -> None:
    with pytest.raises(ValueError, match="verbosity: not a finite number"):
        helpsteer2({"prompt": "p", "response": "r", **dict.fromkeys(HELPSTEER2, 1), "verbosity": value})
