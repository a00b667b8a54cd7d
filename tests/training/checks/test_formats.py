"""Rows to examples with a check: a row's own, and those of data sets."""

import json
import random
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from pydantic import ValidationError

from slhf_training.checks.registry import CheckSettings, check_of, passed_all
from slhf_training.data import Example
from slhf_training.data.load import DataSettings, load
from slhf_training.data.rows import read_rows
from slhf_training.errors import DataError
from tests.hosts import needs_sandbox
from tests.training.shared_data import FOLDER, ROOT, needs_shared_data

TASK = {
    "prompt": "Write add.",
    "task": "MBPP/1",
    "entry_point": "add",
    "test_program": "assert add(1, 2) == 3",
    "reference": "def add(a, b): return a + b",
}
TITLED = {"prompt": "Cats?", "key": 7, "instruction_id_list": ["detectable_format:title"], "kwargs": [{"n": None}]}


def rows(directory: Path, *rows: dict[str, Any], name: str = "rows.jsonl") -> Path:
    file = directory / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def one(directory: Path, row: dict[str, Any], **settings: Any) -> Example:
    (found,) = load(DataSettings(files=(rows(directory, row),), **settings))
    return found


def passed(example: Example, answer: str) -> bool:
    assert example.check is not None
    return check_of(example.check).passed(answer)


def test_a_row_says_itself_how_it_is_checked_and_what_is_to_be_refined(tmp_path: Path) -> None:
    check = {"kind": "number", "answer": 4}
    found = one(tmp_path, {"prompt": "2 + 2?", "check": check, "draft": "It is 5.", "model": "small"})
    assert (found.draft, found.model, found.answers) == ("It is 5.", "small", ("It is 5.",))
    assert passed(found, "It is 4.")
    assert not passed(found, "It is 5.")


def test_the_manual_has_a_row_of_each_kind(tmp_path: Path) -> None:
    manual = (ROOT / "docs" / "training-commands.md").read_text().splitlines()
    written = [json.loads(line) for line in manual if line.startswith('{"prompt"') and '"check"' in line]
    assert all(example.check for example in load(DataSettings(files=(rows(tmp_path, *written),))))
    kinds = {settings.model_fields["kind"].annotation for settings in get_args(get_args(CheckSettings)[0])}
    assert {Literal[row["check"]["kind"]] for row in written} == kinds


def test_a_row_without_these_is_as_it_was(tmp_path: Path) -> None:
    """`model` beside an answer is what it was: the name of another column's reading."""
    found = one(tmp_path, {"prompt": "p", "output": "o", "model": "m"})
    assert (found.check, found.draft, found.model, found.answers) == (None, None, "", ("o",))
    assert one(tmp_path, {"prompt": "p", "reference": "r"}).answers == ()


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ({"kind": "guess"}, r"rows\.jsonl:1: check: "),
        ({"kind": "number"}, r"rows\.jsonl:1: check\.number\.answer: Field required"),
        ({"kind": "number", "answer": "many"}, r"rows\.jsonl:1: check\.number\.answer: .*'many' has no number"),
        ("number", r"rows\.jsonl:1: check: "),
    ],
)
def test_a_bad_check_is_named_by_file_line_and_key(tmp_path: Path, check: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        one(tmp_path, {"prompt": "p", "check": check})


def test_a_number_has_a_reference_that_ends_with_it(tmp_path: Path) -> None:
    row = {"prompt": "How long?", "answer": "12", "solution": "7 + 5 = 12 hours in 2 days"}
    found = one(tmp_path, row, format="gsm8k")
    assert passed(found, "12 hours")
    assert not passed(found, row["solution"])
    assert passed(found, found.reference)
    draft = one(tmp_path, {"prompt": "How long?", "answer": "12", "draft": "13", "model": "m"}, format="gsm8k")
    assert (draft.reference, draft.draft, draft.model) == ("", "13", "m")


@needs_sandbox
def test_code_is_tested_and_a_draft_finds_its_task(tmp_path: Path) -> None:
    tasks = rows(tmp_path, TASK, {**TASK, "task": "MBPP/2", "test_program": "assert 0"}, name="tasks.jsonl")
    assert passed(one(tmp_path, TASK, format="code_tasks"), TASK["reference"])
    draft = {
        "prompt": "Write add.",
        "task": "MBPP/1",
        "draft": "def add(a, b): return 0",
        "model": "m",
        "passes": False,
    }
    found = one(tmp_path, draft, format="code_tasks", tasks=tasks, where={"passes": False})
    assert (found.draft, found.model, found.reference) == (draft["draft"], "m", TASK["reference"])
    assert not passed(found, str(draft["draft"]))
    assert passed(found, found.reference)


def test_short_questions_have_a_wrong_answer_as_draft(tmp_path: Path) -> None:
    row = {"prompt": "Where?", "answers": ["Paris", "Lutetia"], "wrong": ["Rome", "Bonn"], "source": "qa"}
    found = one(tmp_path, row, format="qa_short")
    assert (found.reference, found.draft, found.model) == ("Paris", "Rome", "qa")
    assert passed(found, "It was Lutetia.")
    assert not passed(found, "Rome")
    assert one(tmp_path, {**row, "wrong": []}, format="qa_short").draft is None


def test_small_problems_are_exact_but_where_no_more_than_a_number_is_asked_for(tmp_path: Path) -> None:
    row = {"prompt": "How many fruits? Answer with a number.", "answer": "9"}
    assert passed(one(tmp_path, row, format="synth_exact"), "You have 9 fruits.")
    row = {"prompt": "9 * 1? End with the number alone on the last line.", "answer": "9"}
    assert passed(one(tmp_path, row, format="synth_exact"), "9 * 1 =\n9")
    assert not passed(one(tmp_path, row, format="synth_exact"), "It is 9")


@pytest.mark.parametrize(("format", "passes"), [("ifeval", False), ("ifeval_loose", True)])
def test_instructions_come_with_their_prompt_or_from_its_task(format: str, passes: bool, tmp_path: Path) -> None:
    tasks = rows(tmp_path, TITLED, name="tasks.jsonl")
    draft = {
        "prompt": "Cats?",
        "key": 7,
        "instruction_id_list": ["detectable_format:title"],
        "draft": "d",
        "model": "m",
    }
    for found in (one(tmp_path, TITLED, format=format), one(tmp_path, draft, format=format, tasks=tasks)):
        assert passed(found, "<<Cats>>")
        assert not passed(found, "Cats")
    quoted = {**TITLED, "instruction_id_list": ["startend:quotation"]}
    assert passed(one(tmp_path, quoted, format=format), 'Sure:\n"Cats."') == passes


def test_instructions_that_no_program_here_knows_leave_a_row_without_a_check(tmp_path: Path) -> None:
    row = {**TITLED, "instruction_id_list": ["language:response_language"], "kwargs": [{"language": "de"}]}
    assert one(tmp_path, row, format="ifeval").check is None


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"prompt": "p"}, {"format": "gsm8k"}, r"rows\.jsonl:1: format gsm8k: there is no 'answer'"),
        ({"answer": "1"}, {"format": "gsm8k"}, r"rows\.jsonl:1: prompt: Field required"),
        ({"prompt": "p", "task": "a"}, {"format": "code_tasks"}, "format code_tasks: there is no 'entry_point'"),
        ({"prompt": "p", "answers": None}, {"format": "qa_short"}, "format qa_short: "),
        ({"prompt": 3, "answer": "1"}, {"format": "synth_exact"}, "format synth_exact: "),
        ({"prompt": "p", "answers": []}, {"format": "qa_short"}, r"check\.accepted\.answers: "),
    ],
)
def test_a_row_of_another_format_is_named(
    row: dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        one(tmp_path, row, **settings)


def test_a_draft_whose_task_is_not_there_is_named(tmp_path: Path) -> None:
    tasks = rows(tmp_path, TASK, name="tasks.jsonl")
    with pytest.raises(DataError, match=r"rows\.jsonl:1: format code_tasks: there is no 'MBPP/9'"):
        one(tmp_path, {"prompt": "p", "task": "MBPP/9", "draft": "d"}, format="code_tasks", tasks=tasks)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"files": ["a"], "format": "csv"}, "format"),
        ({"files": ["a"], "tasks": "b"}, "tasks: rows of format None name none"),
        ({"files": ["a"], "tasks": "b", "format": "qa_short"}, "tasks: rows of format qa_short name none"),
        ({"hub": [{"name": "a", "adapter": "tulu-3"}], "format": "gsm8k"}, "format: is of files"),
    ],
)
def test_settings_that_do_not_go_together_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataSettings.model_validate(settings)


def test_a_tenth_of_the_prompts_is_held_out_by_their_hash(tmp_path: Path) -> None:
    """The same prompts whatever else is in the file, and in every other file with them."""
    prompts = [{"prompt": f"What is {n}?", "check": {"kind": "number", "answer": n}} for n in range(2000)]
    file, drafts = rows(tmp_path, *prompts), rows(tmp_path, *prompts[::3], name="drafts.jsonl")

    def asked(path: Path, *part: Any) -> set[str]:
        return {example.chat[0]["content"] for example in load(DataSettings(files=(path,), part=part))}

    held, train = asked(file, 0.9, 1), asked(file, 0, 0.9)
    assert 150 < len(held) < 250
    assert not held & train
    assert len(held | train) == 2000
    assert asked(drafts, 0.9, 1) == held & asked(drafts, 0, 1)


def shared(name: str, format: str, tasks: str | None = None, limit: int | None = None) -> list[Example]:
    settings = {
        "files": [FOLDER / f"{name}.jsonl.gz"],
        "format": format,
        "tasks": tasks and FOLDER / f"{tasks}.jsonl.gz",
        "limit": limit,
    }
    return load(DataSettings.model_validate(settings))


def flags(name: str, key: str) -> dict[str, bool]:
    return {row["id"]: row[key] for _, row in read_rows(FOLDER / f"{name}.jsonl.gz")}


def agreement(name: str, key: str, examples: list[Example]) -> float:
    """With what others found of the drafts, of those that have a check."""
    known = flags(name, key)
    found = [example for example in examples if example.check is not None]
    checks = [check_of(example.check) for example in found if example.check is not None]
    verdicts = passed_all(checks, [example.draft or "" for example in found])
    agreed = [known[example.id] == verdict for example, verdict in zip(found, verdicts, strict=True)]
    return sum(agreed) / len(agreed)


@needs_shared_data
@pytest.mark.parametrize("part", ["train", "test"])
def test_numbers_agree_with_real_flags(part: str) -> None:
    """What is left is drafts whose last number is not the one that the flag goes by."""
    name = f"gsm8k_drafts_{part}"
    assert agreement(name, "correct", shared(name, "gsm8k")) > 0.99


@needs_shared_data
@needs_sandbox
def test_unit_tests_agree_with_real_flags() -> None:
    examples = shared("code_drafts_train", "code_tasks", "code_tasks_train", limit=100)
    assert agreement("code_drafts_train", "passes", examples) >= 0.98


@needs_shared_data
@pytest.mark.parametrize(("format", "key"), [("ifeval", "follow_all"), ("ifeval_loose", "follow_all_loose")])
def test_instructions_agree_with_real_flags(format: str, key: str) -> None:
    examples = shared("ifeval_drafts", format, "ifeval")
    assert sum(example.check is not None for example in examples) > 400
    assert agreement("ifeval_drafts", key, examples) > 0.99


@needs_shared_data
@pytest.mark.parametrize(
    ("name", "format", "least"),
    [("gsm8k_test", "gsm8k", 1), ("synth_exact_test", "synth_exact", 1), ("qa_short_test", "qa_short", 0.999)],
)
def test_real_references_pass_their_own_checks(name: str, format: str, least: float) -> None:
    """An accepted answer that is no word (`/`) is none."""
    found = shared(name, format)
    assert sum(passed(example, example.reference) for example in found) / len(found) >= least


@needs_shared_data
@needs_sandbox
def test_real_programs_pass_their_own_tests_and_fail_where_they_return_nothing() -> None:
    found = random.Random(0).sample(shared("code_tasks_test", "code_tasks"), 20)
    checks = [check_of(example.check) for example in found if example.check is not None]
    assert all(passed_all(checks, [f"```python\n{example.reference}\n```" for example in found]))
    stubs = [f"def {example.check.entry_point}(*given): pass" for example in found]  # type: ignore[union-attr]
    assert not any(passed_all(checks, stubs))


@needs_shared_data
def test_few_real_wrong_answers_are_accepted() -> None:
    """Those that an accepted one is a part of: "2018" in "March 1, 2018"."""
    found = [example for example in shared("qa_short_train", "qa_short") if example.draft is not None]
    assert sum(passed(example, example.draft or "") for example in found) / len(found) < 0.03
