"""Instructions that can be checked, on answers that follow them and answers that do not."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from slhf_training.checks.instructions import KINDS, follows, follows_loosely
from slhf_training.errors import DataError, SettingsError
from slhf_training.evaluation.sections.benchmarks import (
    IFEvalSettings,
    Verdict,
    checker_of,
    exact,
    ifeval_report,
    read_instructed,
)
from slhf_training.evaluation.statistics import Bootstrap
from tests.training.evaluation.fakes import jsonl
from tests.training.shared_data import FOLDER, needs_shared_data

CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("punctuation:no_comma", {}, "One and two.", "One, two."),
    ("keywords:existence", {"keywords": ["dog", "day"]}, "A DOG's day", "A dog"),
    ("keywords:frequency", {"keyword": "ha", "frequency": 2, "relation": "at least"}, "ha ha", "ha"),
    ("keywords:frequency", {"keyword": "ha", "frequency": 2, "relation": "less than"}, "ha", "ha ha"),
    ("keywords:forbidden_words", {"forbidden_words": ["damn"]}, "damnation", "Damn it"),
    ("keywords:letter_frequency", {"letter": "j", "let_frequency": 2, "let_relation": "at least"}, "Jj", "j"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "two words", "now three words"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo\n***", "one\n***\n***\ntwo"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "it"},
        "One.\n\n\"It's two.",
        "One.\n\nThis is two.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] of [place]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\np. p. s. hi", "Bye.\nP.S. hi"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP. S. hi", "Bye. PS hi"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n** b"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b*", "*a* and * *"),
    ("detectable_format:multiple_sections", {"section_spliter": "Day", "num_sections": 2}, "Day 1 x Day 2 y", "Day 1"),
    ("detectable_format:title", {}, "<<Joy>>\ntext", "<< >>\ntext"),
    ("detectable_format:constrained_response", {}, "My answer is no.", "No."),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("combination:two_responses", {}, "one ****** two", "one ****** one"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it. "}, " say it. Well:", "Well: say it."),
    ("startend:end_checker", {"end_phrase": "The end."}, 'So. "the end."', "The end. Bye"),
    ("startend:quotation", {}, ' "said" ', '"said'),
]


@pytest.mark.parametrize(("kind", "arguments", "right", "wrong"), CASES, ids=[case[0] for case in CASES])
def test_an_instruction_is_followed_or_not(kind: str, arguments: dict[str, Any], right: str, wrong: str) -> None:
    assert follows(kind, right, arguments)
    assert not follows(kind, wrong, arguments)


def test_every_kind_has_a_case() -> None:
    assert {case[0] for case in CASES} == set(KINDS)


def test_an_empty_answer_follows_nothing() -> None:
    assert not follows("punctuation:no_comma", " \n", {})


@pytest.mark.parametrize(
    ("kind", "arguments", "answer"),
    [
        ("punctuation:no_comma", {}, "Sure, here it is:\nA plain line"),
        ("punctuation:no_comma", {}, "A plain line\nBye, then"),
        ("punctuation:no_comma", {}, "Sure, so:\nA plain line\nBye, then"),
        ("combination:repeat_prompt", {"prompt_to_repeat": "A plain line"}, "**A plain line**"),
    ],
)
def test_looseness_forgives_the_first_and_last_line_and_asterisks(
    kind: str, arguments: dict[str, Any], answer: str
) -> None:
    assert not follows(kind, answer, arguments)
    assert follows_loosely(kind, answer, arguments)


def test_accuracy_is_by_prompt_and_by_instruction() -> None:
    """One prompt follows 1 of 2 instructions, the other its only one: prompts 1/2, instructions 2/3."""
    report = ifeval_report([Verdict((True, False), (True, True)), Verdict((True,), (True,))], Bootstrap(100))
    assert report["prompt_strict"]["value"] == 0.5
    assert report["instruction_strict"]["value"] == pytest.approx(2 / 3)
    assert report["prompt_loose"]["value"] == report["instruction_loose"]["value"] == 1


def asked(folder: Path, **changes: Any) -> IFEvalSettings:
    rows = [
        {"key": 1, "prompt": "a", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"language": None}]},
        {
            "key": 2,
            "prompt": "b",
            "instruction_id_list": ["language:response_language"],
            "kwargs": [{"language": "de"}],
        },
    ]
    path = jsonl(folder / "asked.jsonl", rows)
    return IFEvalSettings.model_validate({"files": [path], "players": ["slhf"], "checker": "exact", **changes})


def test_prompts_that_the_checker_cannot_check_are_left_out(tmp_path: Path) -> None:
    assert [one.row.prompt for one in read_instructed(asked(tmp_path))] == ["a"]
    assert [one.row.prompt for one in read_instructed(asked(tmp_path, checker="lm-eval"))] == ["a", "b"]


def test_arguments_without_a_value_are_no_arguments(tmp_path: Path) -> None:
    (one,) = read_instructed(asked(tmp_path))
    assert one.row.arguments == ({},)
    assert exact(one, "no") == Verdict((True,), (True,))


def test_a_row_without_instructions_is_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "bad.jsonl", [{"prompt": "a"}])
    with pytest.raises(DataError, match="bad.jsonl:1: instruction_id_list"):
        read_instructed(asked(tmp_path, files=[path]))


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_a_checker_that_is_not_installed_is_named_with_its_extra(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"(langdetect|nltk|lm_eval).*slhf-training\[ifeval\]"):
        checker_of(asked(tmp_path, checker="lm-eval"))


@needs_shared_data
def test_most_real_prompts_can_be_checked_exactly(tmp_path: Path) -> None:
    """25 kinds are in use; the five that need a tokenizer or a language detector leave out a quarter of the prompts."""
    real = asked(tmp_path, files=[FOLDER / "ifeval.jsonl.gz"])
    every = read_instructed(real.model_copy(update={"checker": "lm-eval"}))
    checkable = read_instructed(real)
    assert len(every) == 274
    assert len(checkable) > 0.6 * len(every)
    for one in checkable:
        exact(one, "Some answer.\n\nIn two paragraphs.")
