"""Lessons out of checked data: right drafts stay, wrong ones become a sample that passes, or the reference."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from slhf import Bundle, write_bundle
from slhf_training.errors import DataError, SettingsError
from slhf_training.evaluation.generation import Task
from slhf_training.lessons.run import lessons
from slhf_training.lessons.settings import LessonsSettings
from slhf_training.lessons.targets import nearest, styled
from tests.training.evaluation.fakes import FakeModels, Reply


def row(prompt: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "check": {"kind": "number", "answer": answer}, **more}


DRAFTS = [
    row("What is 1 + 1?", "2", draft="It is 2.", reference="One and one make 2."),
    row("What is 1 + 1?", "2", draft="It is 3.", reference="One and one make 2."),
    row("What is 2 + 2?", "4", draft="It is 5.", reference="Two and two make 4."),
    row("What is 3 + 3?", "6", draft="It is 7."),
]


def settings(directory: Path, rows: Sequence[Mapping[str, Any]], **changes: Any) -> LessonsSettings:
    data = directory / "data.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    given = {"output_dir": str(directory / "out"), **changes}
    for role in ("leader", "follower"):
        if role in given:
            given[role] = [{"data": {"files": [str(data)]}, **given[role]}]
    return LessonsSettings.model_validate(given)


def written(file: Path) -> list[tuple[str, str | None, str]]:
    found = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    rows = [(one["prompt"][-1]["content"], one.get("draft"), one["target"]) for one in found]
    return sorted(rows, key=str)


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    directory = tmp_path / "bundle"
    directory.mkdir()
    (directory / "config.json").write_text("{}", encoding="utf-8")
    write_bundle(directory, Bundle(name="sampled"))
    return str(directory)


def answers(*texts: str) -> FakeModels:
    """Sample after sample."""

    def reply(name: str) -> Reply:
        numbers: dict[Any, int] = {}

        def one(task: Task, draft: str | None) -> str:
            key = task.chat[-1]["content"], draft
            numbers[key] = numbers.get(key, -1) + 1
            return texts[numbers[key] % len(texts)]

        return one

    return FakeModels(reply)


def test_right_drafts_stay_and_wrong_ones_become_the_reference(tmp_path: Path) -> None:
    assert written(lessons(settings(tmp_path, DRAFTS, follower={}))) == [
        ("What is 1 + 1?", "It is 2.", "It is 2."),
        ("What is 1 + 1?", "It is 3.", "One and one make 2."),
        ("What is 2 + 2?", "It is 5.", "Two and two make 4."),
    ]


def test_a_sample_that_passes_comes_before_the_reference_and_the_nearest_of_them_is_learnt(
    tmp_path: Path, bundle: str
) -> None:
    models = answers("It may be 9.", "I have counted it: it is 4, no, 6.", "It is 6.")
    found = written(lessons(settings(tmp_path, DRAFTS, follower={}, samples={"bundle": bundle, "count": 3}), models))
    assert ("What is 3 + 3?", "It is 7.", "It is 6.") in found
    assert ("What is 2 + 2?", "It is 5.", "Two and two make 4.") in found
    assert len(models.opened) == 1


def test_without_references_a_wrong_draft_that_no_sample_mends_teaches_nothing(tmp_path: Path, bundle: str) -> None:
    asked = settings(tmp_path, DRAFTS, follower={"references": False}, samples={"bundle": bundle, "count": 2})
    assert written(lessons(asked, answers("It is 6."))) == [
        ("What is 1 + 1?", "It is 2.", "It is 2."),
        ("What is 3 + 3?", "It is 7.", "It is 6."),
    ]


def test_a_reference_that_does_not_pass_is_no_target(tmp_path: Path) -> None:
    rows = [row("What is 1 + 1?", "2", draft="3", reference="It is 4."), row("Why 2?", "2", draft="2")]
    assert written(lessons(settings(tmp_path, rows, follower={}))) == [("Why 2?", "2", "2")]


def test_the_leader_learns_samples_that_pass_or_references(tmp_path: Path, bundle: str) -> None:
    asked = settings(tmp_path, DRAFTS[1:], leader={}, samples={"bundle": bundle, "count": 1})
    assert written(lessons(asked, answers("It is 6."))) == [
        ("What is 1 + 1?", None, "One and one make 2."),
        ("What is 2 + 2?", None, "Two and two make 4."),
        ("What is 3 + 3?", None, "It is 6."),
    ]


def test_references_and_samples_can_be_the_drafts(tmp_path: Path, bundle: str) -> None:
    asked = settings(tmp_path, DRAFTS, follower={"drafts": "reference"})
    assert written(lessons(asked)) == [
        ("What is 1 + 1?", "One and one make 2.", "One and one make 2."),
        ("What is 2 + 2?", "Two and two make 4.", "Two and two make 4."),
    ]
    sampled = settings(tmp_path, DRAFTS[2:3], follower={"drafts": "sampled"}, samples={"bundle": bundle, "count": 2})
    assert written(lessons(sampled, answers("It is 4.", "It is 8."))) == [
        ("What is 2 + 2?", "It is 4.", "It is 4."),
        ("What is 2 + 2?", "It is 8.", "It is 4."),
    ]


def test_right_and_wrong_drafts_are_limited_apart(tmp_path: Path) -> None:
    rows = [row(f"What is {n} + 0?", str(n), draft=str(n + n % 2), reference=f"It is {n}.") for n in range(20)]
    found = written(lessons(settings(tmp_path, rows, follower={"right": 3, "wrong": 5})))
    assert sum(draft == target for _, draft, target in found) == 3
    assert sum(draft != target for _, draft, target in found) == 5


def test_the_same_seed_writes_the_same_file(tmp_path: Path) -> None:
    rows = [row(f"What is {n} + 0?", str(n), draft=str(n + n % 2), reference=f"It is {n}.") for n in range(20)]
    asked = settings(tmp_path, rows, follower={"right": 3, "wrong": 5})
    first = lessons(asked).read_bytes()
    assert lessons(asked).read_bytes() == first
    assert lessons(asked.model_copy(update={"seed": 1})).read_bytes() != first


def test_samples_that_were_written_are_not_written_again(tmp_path: Path, bundle: str) -> None:
    asked = settings(tmp_path, DRAFTS, follower={}, samples={"bundle": bundle, "count": 2})
    lessons(asked, answers("It is 6."))
    again = answers("It is 6.")
    lessons(asked, again)
    assert again.opened == []


def test_a_leaders_code_stands_in_a_fence_and_a_drafts_target_does_not(tmp_path: Path) -> None:
    check = {"kind": "tests", "entry_point": "one", "test_program": "assert one() == 1"}
    rows = [
        {"prompt": "Write one().", "check": check, "draft": "def one(): return 2", "reference": "def one():  return 1"}
    ]
    found = written(lessons(settings(tmp_path, rows, leader={}, follower={})))
    code = "def one():\n    return 1"
    assert found == [
        ("Write one().", "def one(): return 2", code),
        ("Write one().", None, f"```python\n{code}\n```"),
    ]


def test_nothing_to_learn_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no lesson is left"):
        lessons(settings(tmp_path, [row("What is 1 + 1?", "2", draft="3")], follower={}))


@pytest.mark.parametrize(
    ("changes", "named"), [({}, "leader and follower"), ({"follower": {"drafts": "sampled"}}, "needs samples")]
)
def test_settings_that_cannot_work_name_themselves(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises((SettingsError, ValueError), match=named):
        settings(tmp_path, DRAFTS, **changes)


def test_the_nearest_answer_keeps_most_of_the_draft() -> None:
    assert nearest("a b c d", ["x y", "a b c e", "d c b a"]) == "a b c e"
    assert nearest(None, ["long answer", "short"]) == "short"


def test_code_keeps_its_comments_and_what_does_not_parse_stays() -> None:
    assert styled("def f( a ):\n  return(a)") == "def f(a):\n    return a"
    assert styled("x=1 # one") == "x=1 # one"
    assert styled("def f(:") == "def f(:"
