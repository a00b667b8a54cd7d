"""The shipped configurations of tasks: their lists of rows are in the data that they were drawn from."""

from pathlib import Path
from typing import Any

import pytest

from slhf_training.config import read_config
from slhf_training.evaluation import evaluate_settings
from slhf_training.evaluation.prompts import read_cases, read_drafts
from slhf_training.evaluation.run import evaluate
from tests.training.checks.hosts import has_ifbench, needs_ifbench
from tests.training.evaluation.fakes import FakeModels, empty_bundle, marked
from tests.training.shared_data import FOLDER, ROOT, needs_shared_data

EXAMPLES = ROOT / "training" / "examples"
PROGRAMS = ("code_drafts",)
"""Whose checks run programs, which not every host allows; tests/training/checks has them."""
IFBENCH = ("ifbench_drafts",)
"""Whose checks are of a package that may not be here."""


def example() -> Any:
    return read_config(EXAMPLES / "evaluate-checked.yaml", evaluate_settings())


def open_prompts() -> Any:
    """With another judge than the panel, whose models lie in runs/."""
    judge = {"preference": {"kind": "callable", "function": "tests.training.evaluation.fakes:longer"}}
    return read_config(EXAMPLES / "evaluate-open.yaml", evaluate_settings(), judge)


def test_every_task_has_its_list_of_rows_and_none_has_more_than_300() -> None:
    tasks = example().checked.tasks | open_prompts().panel.tasks
    lists = {name: task.rows_file.read_text().splitlines() for name, task in tasks.items()}
    assert {path.stem for path in (EXAMPLES / "rows").glob("*.txt")} == set(lists)
    assert all(len(set(ids)) == len(ids) <= 300 for ids in lists.values())
    assert sum(len(lists[name]) for name in open_prompts().panel.tasks) >= 400


def test_rules_are_told_on_rows_that_checked_has_too() -> None:
    shipped: Any = read_config(EXAMPLES / "evaluate-rules.yaml", evaluate_settings())
    assert shipped.rules.tasks == {name: example().checked.tasks[name] for name in ("gsm8k_drafts", "code_drafts")}


@needs_shared_data
def test_open_prompts_are_in_the_data_and_other_models_have_answered_them() -> None:
    if FOLDER != ROOT.parent / "shared" / "data":
        pytest.skip("the data lie elsewhere than the example says")
    how = open_prompts()
    for name, task in how.panel.tasks.items():
        assert len(read_cases(name, task, None, checked=False)) == len(task.rows_file.read_text().splitlines())
    asked = {case.prompt.id for case in read_cases("alpaca_eval", how.panel.tasks["alpaca_eval"], None, checked=False)}
    others = [model for model in how.models.values() if model.drafts is not None]
    assert len(others) == 10
    assert all(len(asked & read_drafts(model.drafts, model.model).keys()) > 100 for model in others)


@needs_shared_data
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[needs_ifbench] if name in IFBENCH else []) for name in example().checked.tasks],
)
def test_the_listed_rows_are_in_the_data_and_can_be_checked(name: str) -> None:
    if FOLDER != ROOT.parent / "shared" / "data":
        pytest.skip("the data lie elsewhere than the example says")
    task = example().checked.tasks[name]
    cases = read_cases(name, task, None)
    assert [case.prompt.name for case in cases] == task.rows_file.read_text().splitlines()
    assert all(case.check is not None for case in cases)
    assert all(case.drafted.draft for case in cases) == (not task.leaders)


@needs_shared_data
def test_it_runs_on_the_real_rows_with_models_that_only_copy(tmp_path: Path) -> None:
    """Followers who change nothing mend nothing and break nothing."""
    shipped = example()
    absent = () if has_ifbench() else IFBENCH
    tasks = {name: task for name, task in shipped.checked.tasks.items() if name not in (*PROGRAMS, *absent)}
    models = {name: {"bundle": str(empty_bundle(tmp_path / name))} for name in shipped.models}
    how = evaluate_settings().model_validate(
        {
            "output_dir": tmp_path / "out",
            "models": models,
            "resamples": 20,
            "checked": {"followers": ["slhf", "base"], "two_answers": ["slhf"], "tasks": tasks},
        }
    )
    copies = FakeModels(lambda name: lambda task, draft: draft or marked(name)(task, draft))
    found = evaluate(how, limit=8, opened=copies)["sections"]["checked"]
    assert copies.opened == ["slhf", "base", "slhf"]
    for group in found["tasks"].values():
        for player in group["players"]:
            for one in player["rounds"]:
                assert one["unchanged"]["value"] == 1
                assert {(one[key] or {"count": 0})["count"] for key in ("mended", "broken")} == {0}
