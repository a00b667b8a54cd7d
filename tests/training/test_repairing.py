"""Answers that a program makes to follow instructions; `slhf_training.checks.instructions` says whether they do."""

from collections.abc import Mapping
from typing import Any

import pytest

from slhf_training.checks.instructions import InstructedRow, follows
from slhf_training.data.examples import Example
from slhf_training.distill.repairing import REPAIRS, finished, repaired
from slhf_training.instructions.write import instruct

ANSWER = "A cat, which purrs, is small. It eats 1,000 mice. It sleeps all day. Then it plays."

REPAIRED: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "punctuation:no_comma": ({}, "A cat which purrs is small. It eats 1000 mice. It sleeps all day. Then it plays."),
    "keywords:existence": ({"keywords": ["mice", "fur", "paw"]}, f"{ANSWER}\n\nKeywords: fur; paw"),
    "keywords:forbidden_words": (
        {"forbidden_words": ["mice", "PLAYS"]},
        "A cat, which purrs, is small. It sleeps all day.",
    ),
    "length_constraints:number_words": (
        {"num_words": 12, "relation": "less than"},
        "A cat, which purrs, is small. It eats 1,000 mice.",
    ),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2},
        "A cat, which purrs, is small. It eats 1,000 mice.\n\n***\n\nIt sleeps all day. Then it plays.",
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, f"{ANSWER}\n\nTo fill in: [name] [date]"),
    "detectable_content:postscript": (
        {"postscript_marker": "P.S."},
        f"{ANSWER}\n\nP.S. I hope that this is what you asked for.",
    ),
    "detectable_format:number_bullet_lists": (
        {"num_bullets": 3},
        "* A cat, which purrs, is small.\n* It eats 1,000 mice. It sleeps all day.\n* Then it plays.",
    ),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2},
        "*A cat*, which purrs, is small. *It eats* 1,000 mice. It sleeps all day. Then it plays.",
    ),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1\nA cat, which purrs, is small. It eats 1,000 mice.\n\nPart 2\nIt sleeps all day. Then it plays.",
    ),
    "detectable_format:title": ({}, f"<<A cat which purrs is small>>\n\n{ANSWER}"),
    "detectable_format:json_format": ({}, f'{{"answer": "{ANSWER}"}}'),
    "combination:two_responses": ({}, f"{ANSWER}\n\n******\n\nIn short: A cat, which purrs, is small."),
    "combination:repeat_prompt": ({"prompt_to_repeat": "What is it?"}, f"What is it?\n\n{ANSWER}"),
    "startend:end_checker": ({"end_phrase": "That is all."}, f"{ANSWER}\n\nThat is all."),
    "startend:quotation": ({}, f'"{ANSWER}"'),
}
"""By kind: the instruction's arguments, and what becomes of the answer."""


def row(*asked: tuple[str, Mapping[str, Any]]) -> InstructedRow:
    kinds, given = [kind for kind, _ in asked], [arguments for _, arguments in asked]
    return InstructedRow.model_validate({"prompt": "?", "instruction_id_list": kinds, "kwargs": given})


def test_every_repair_has_an_example() -> None:
    assert REPAIRED.keys() == REPAIRS.keys()


@pytest.mark.parametrize("kind", REPAIRS)
def test_a_repair_makes_the_answer_follow(kind: str) -> None:
    given, expected = REPAIRED[kind]
    assert not follows(kind, ANSWER, given)
    found = repaired(row((kind, given)), ANSWER)
    assert found == expected
    assert follows(kind, found, given)
    assert repaired(row((kind, given)), found) == found


@pytest.mark.parametrize("answer", ["", "\n", "***", "******", ",", "..."])
def test_an_answer_without_words_breaks_no_repair(answer: str) -> None:
    for kind, (given, _) in REPAIRED.items():
        assert isinstance(repaired(row((kind, given)), answer), str)


def test_what_frames_the_whole_comes_last() -> None:
    asked = row(
        ("startend:quotation", {}),
        ("startend:end_checker", {"end_phrase": "That is all."}),
        ("punctuation:no_comma", {}),
    )
    found = repaired(asked, 'A "cat", which purrs.')
    assert found == "\"A 'cat' which purrs.\n\nThat is all.\""
    assert all(asked.followed(found, follows))


@pytest.mark.parametrize(
    ("kind", "given", "answer"),
    [
        ("length_constraints:number_words", {"num_words": 9, "relation": "at least"}, "It purrs."),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 3}, "It purrs. It eats."),
        ("detectable_format:number_bullet_lists", {"num_bullets": 3}, "It purrs."),
        ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "at least"}, "A cat."),
    ],
)
def test_what_a_program_cannot_do_stays(kind: str, given: Mapping[str, Any], answer: str) -> None:
    assert repaired(row((kind, given)), answer) == answer


def test_a_repair_that_breaks_another_instruction_is_not_made() -> None:
    """A list of three bullets would no longer be JSON."""
    asked = row(("detectable_format:number_bullet_lists", {"num_bullets": 3}), ("detectable_format:json_format", {}))
    assert repaired(asked, '{"a": "One. Two. Three."}') == '{"a": "One. Two. Three."}'


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Stay below six words, always. Or not.", "Stay below six words always."),
        ("Stay.", "Stay."),
    ],
)
def test_a_first_sentence_that_is_too_long_is_cut(answer: str, expected: str) -> None:
    asked = row(
        ("length_constraints:number_words", {"num_words": 6, "relation": "less than"}), ("punctuation:no_comma", {})
    )
    assert repaired(asked, answer) == expected


def test_an_items_number_is_no_sentence() -> None:
    asked = row(("detectable_format:number_highlighted_sections", {"num_highlights": 2}))
    assert repaired(asked, "1. It purrs. 2. It eats.") == "1. *It purrs*. 2. *It eats*."


def test_a_sentence_that_was_cut_goes() -> None:
    assert finished('It purrs. "It eats!" And then it') == 'It purrs. "It eats!"'
    assert finished("It costs 1.5 euros and") == "It costs 1.5 euros and"
    assert finished("It purrs.") == "It purrs."


def test_what_is_drawn_is_mostly_repaired() -> None:
    """Of answers that are long enough, all but what no program can add."""
    asked = Example([{"role": "user", "content": "What is a cat?"}], reference=ANSWER)
    rows = [InstructedRow.model_validate(row) for seed in range(300) for row in instruct([asked], seed)]
    repairable = [one for one in rows if set(one.kinds) <= REPAIRS.keys() and "at least" not in str(one.arguments)]
    before = [all(one.followed(ANSWER, follows)) for one in repairable]
    after = [all(one.followed(repaired(one, ANSWER), follows)) for one in repairable]
    assert sum(before) < len(before) / 4
    assert sum(after) > len(after) * 3 / 4
