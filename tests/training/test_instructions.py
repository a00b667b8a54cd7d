"""Prompts with instructions that can be checked, and the voter that checks them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from slhf_training.checks.instructions import KINDS, follows
from slhf_training.cli import main
from slhf_training.data import Example
from slhf_training.data.load import DataSettings, load
from slhf_training.errors import DataError, SettingsError
from slhf_training.instructions.write import INSTRUCTIONS, instruct
from slhf_training.preference import Preference, PreferenceSettings, preference_of
from slhf_training.types import Chat

QUESTION = "What is a cat?"
REFERENCE = "A small mammal with whiskers that people often keep inside their houses."
Row = dict[str, Any]

OBEYING: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "punctuation:no_comma": lambda given: "It purrs.",
    "keywords:existence": lambda given: " ".join(given["keywords"]),
    "keywords:frequency": lambda given: f"{given['keyword']} " * given["frequency"],
    "keywords:forbidden_words": lambda given: "It purrs.",
    "keywords:letter_frequency": lambda given: given["letter"] * given["let_frequency"],
    "length_constraints:number_words": lambda given: (
        "word " * (given["num_words"] - (given["relation"] == "less than"))
    ),
    "length_constraints:number_paragraphs": lambda given: "\n***\n".join(["It purrs."] * given["num_paragraphs"]),
    "detectable_content:number_placeholders": lambda given: "[name] " * given["num_placeholders"],
    "detectable_content:postscript": lambda given: f"It purrs.\n{given['postscript_marker']} It eats.",
    "detectable_format:number_bullet_lists": lambda given: "* It purrs.\n" * given["num_bullets"],
    "detectable_format:number_highlighted_sections": lambda given: "*purrs* " * given["num_highlights"],
    "detectable_format:multiple_sections": lambda given: "\n".join(
        f"{given['section_spliter']} {number + 1} It purrs." for number in range(given["num_sections"])
    ),
    "detectable_format:title": lambda given: "<<Cats>>\nThey purr.",
    "detectable_format:json_format": lambda given: '{"cat": "purrs"}',
    "combination:two_responses": lambda given: "It purrs.\n******\nIt eats.",
    "combination:repeat_prompt": lambda given: f"{given['prompt_to_repeat']} It purrs.",
    "startend:end_checker": lambda given: f"It purrs. {given['end_phrase']}",
    "startend:quotation": lambda given: '"It purrs."',
}
"""An answer that follows an instruction of this kind, by its arguments."""


def asked(text: str, reference: str = REFERENCE) -> Example:
    return Example([{"role": "user", "content": text}], reference=reference)


def drawn(seeds: int = 200, reference: str = REFERENCE) -> list[Row]:
    return [row for seed in range(seeds) for row in instruct([asked(QUESTION, reference)], seed)]


def test_every_kind_is_drawn_and_an_answer_can_follow_each() -> None:
    rules = [rule for row in drawn() for rule in zip(row["instruction_id_list"], row["kwargs"], strict=True)]
    assert {kind for kind, _ in rules} == {one.kind for one in INSTRUCTIONS} == set(OBEYING) <= set(KINDS)
    assert all(follows(kind, OBEYING[kind](given), given) for kind, given in rules)


def test_a_prompt_says_what_is_checked() -> None:
    rows = [row for row in drawn() if row["instruction_id_list"] == ["keywords:existence"]]
    assert rows
    assert {row["prompt"].startswith(QUESTION) for row in rows} == {True, False}
    assert all(QUESTION in row["prompt"] for row in rows)
    assert all(word in row["prompt"] for row in rows for word in row["kwargs"][0]["keywords"])


def test_what_is_to_be_repeated_is_the_prompt_alone() -> None:
    rows = [row for row in drawn() if row["instruction_id_list"] == ["combination:repeat_prompt"]]
    assert rows
    assert all(row["kwargs"] == [{"prompt_to_repeat": QUESTION}] for row in rows)


def test_a_good_answer_stays_with_its_prompt_as_a_draft(tmp_path: Path) -> None:
    (example,) = load(DataSettings(files=(file_of(tmp_path, *instruct([asked(QUESTION)])),)))
    assert example.answers == (REFERENCE,)
    assert "response" not in next(instruct([asked(QUESTION, "")]))


def test_without_words_to_ask_for_no_instruction_is_about_words() -> None:
    assert not any(kind.startswith("keywords:") for row in drawn(reference="") for kind in row["instruction_id_list"])


def test_the_same_seed_gives_the_same_and_another_does_not() -> None:
    questions = [asked(f"What is {thing}?") for thing in ("a cat", "a dog", "rain", "snow")]
    assert list(instruct(questions)) == list(reversed(list(instruct(reversed(questions)))))
    assert list(instruct(questions)) != list(instruct(questions, seed=1))


def test_a_chat_of_several_turns_is_left_out() -> None:
    chat: Chat = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": QUESTION},
    ]
    assert list(instruct([Example(chat)])) == []


def source(*files: Path) -> Preference:
    settings = {"kind": "instructions", "files": [str(file) for file in files]}
    return preference_of(TypeAdapter[Any](PreferenceSettings).validate_python(settings))


def file_of(directory: Path, *rows: Row) -> Path:
    file = directory / "instructed.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def row_of(**changes: Any) -> Row:
    kinds = ["punctuation:no_comma", "startend:quotation"]
    return {"prompt": QUESTION, "instruction_id_list": kinds, "kwargs": [{}, {"num_words": None}], **changes}


def test_the_answer_that_follows_more_wins(tmp_path: Path) -> None:
    """Shares of 1, 1/2 and 0 of two instructions."""
    p = source(file_of(tmp_path, row_of()))
    chats: list[Chat] = [[{"role": "user", "content": QUESTION}]] * 4
    first, second = ['"It purrs."', "It purrs.", "It purrs, it eats.", "Purr."], ["It, purrs", '"Purrs."', "x", "Mew."]
    assert p(chats, first, second) == pytest.approx([1.0, 0.25, 0.25, 0.5])
    assert p(chats, second, first) == pytest.approx([0.0, 0.75, 0.75, 0.5])


def test_it_abstains_from_chats_that_it_knows_nothing_of(tmp_path: Path) -> None:
    p = source(file_of(tmp_path, row_of()))
    other: Chat = [{"role": "user", "content": "Why?"}]
    longer: Chat = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "A pet."}, *other]
    assert np.isnan(p([other, longer], ["a", "a"], ["b", "b"])).all()


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        (row_of(kwargs=[{}]), DataError, "instructed.jsonl:1: row: .*2 instructions and kwargs for 1"),
        (row_of(instruction_id_list=[], kwargs=[]), DataError, "instructed.jsonl:1: instruction_id_list"),
        (row_of(instruction_id_list=["a:b", "c:d"]), SettingsError, "files: there is no check for a:b, c:d"),
    ],
)
def test_a_row_that_cannot_be_checked_is_named(tmp_path: Path, row: Row, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        source(file_of(tmp_path, row))


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="files: no row"):
        source(file_of(tmp_path))


def test_the_command_writes_what_training_and_the_voter_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text("".join(f'{{"prompt": "What is {n}?", "reference": "{REFERENCE}"}}\n' for n in range(20)))
    assert main(["add-instructions", str(out), "--prompts", str(prompts)]) == 0
    assert capsys.readouterr().out == f"{out}: 20 prompts\n"
    chats = [example.chat for example in load(DataSettings(files=(out,)))]
    p = source(out)(chats, ["x"] * 20, [""] * 20)
    assert len(chats) == 20
    assert ((p >= 0.5) & (p <= 1)).all()
    assert (p > 0.5).any()


def test_the_command_does_not_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Why?"}\n')
    assert main(["add-instructions", str(prompts), "--prompts", str(prompts)]) == 1
    assert capsys.readouterr().err == f"slhf-train: {prompts}: File exists\n"
