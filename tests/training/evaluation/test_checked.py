"""The section `checked` on drafts and refinements whose rights and wrongs are known."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slhf_training.errors import DataError, SettingsError
from slhf_training.evaluation.generation import Task
from slhf_training.evaluation.mending import unchanged
from slhf_training.evaluation.prompts import Case, Prompt
from slhf_training.evaluation.run import READABLE, evaluate
from tests.training.evaluation.fakes import FakeModels, Longer, Reply, jsonl, settings
from tests.training.evaluation.test_sections import read

SUMS = {f"What is {n} + {n}?": str(2 * n) for n in range(1, 11)}
"""Ten questions with their answers."""


def drafts(folder: Path, right: Mapping[str, set[int]]) -> Path:
    """One draft of each model to each question; those of the numbers in `right` are right, the others say 0."""
    rows = [
        {"id": f"{model}-{n}", "prompt": prompt, "check": {"kind": "number", "answer": answer}, "model": model}
        | {"draft": f"It is {answer if n in numbers else 0}."}
        for model, numbers in right.items()
        for n, (prompt, answer) in enumerate(SUMS.items())
    ]
    return jsonl(folder / "drafts.jsonl", rows)


def says(said: Callable[[str, str | None, Task], str | None]) -> Callable[[str], Reply]:
    """Everybody answers so: the right number and the draft are given."""
    return lambda name: lambda task, draft: said(SUMS[task.chat[-1]["content"]], draft, task)


def checked(folder: Path, models: FakeModels | None = None, limit: int | None = None, **changes: Any) -> Any:
    """The section's figures, with nobody who judges."""
    folder.mkdir(exist_ok=True)
    how = settings(folder, preference=changes.pop("preference", None), prompts=None, checked=changes)
    report = evaluate(how, limit, opened=models or FakeModels(), judge=Longer().of)
    return report["sections"]["checked"]


def given(path: Path, **task: Any) -> dict[str, Any]:
    """One task with the file's drafts, refined once by `slhf`."""
    return {"tasks": {"sums": {"data": {"files": [str(path)]}, **task}}, "followers": ["slhf"], "rounds": 1}


def only(figures: Any) -> Any:
    (player,) = figures["tasks"]["sums"]["players"]
    return player


def test_mended_and_broken_are_counted_of_the_wrong_and_of_the_right(tmp_path: Path) -> None:
    """6 of 10 drafts are right. The Follower writes 2 of these wrong, and 1 of the 4 others right: 5 of 10 afterwards.
    The exact intervals of 1 of 4 and 2 of 6 are (0.006, 0.806) and (0.043, 0.777)."""
    changed = {"2": "It is 99.", "4": "It is 99.", "20": "It is 20."}
    models = FakeModels(says(lambda right, draft, task: changed.get(right, draft)))
    player = only(checked(tmp_path, models, **given(drafts(tmp_path, {"gpt": {0, 1, 2, 3, 4, 5}}))))
    (first,) = player["rounds"]
    assert (player["rows"], player["right"]["value"], first["right"]["value"]) == (10, 0.6, 0.5)
    assert first["gain"]["value"] == pytest.approx(-0.1)
    assert first["gain"]["low"] < -0.1 < first["gain"]["high"]
    assert (first["mended"]["count"], first["mended"]["n"]) == (1, 4)
    assert (first["broken"]["count"], first["broken"]["n"]) == (2, 6)
    assert (first["mended"]["low"], first["mended"]["high"]) == pytest.approx((0.006, 0.806), abs=1e-3)
    assert (first["broken"]["low"], first["broken"]["high"]) == pytest.approx((0.043, 0.777), abs=1e-3)
    assert (first["unchanged"]["count"], first["unchanged_right"]["count"], first["unchanged_right"]["n"]) == (7, 4, 6)


def test_figures_are_split_by_who_wrote_the_draft(tmp_path: Path) -> None:
    """The Follower copies: what it gets is what it gives."""
    models = FakeModels(says(lambda right, draft, task: draft))
    path = drafts(tmp_path, {"good": set(range(10)), "bad": {0}})
    player = only(checked(tmp_path, models, **given(path)))
    assert {model: row["right"]["value"] for model, row in player["by_model"].items()} == {"good": 1, "bad": 0.1}
    assert player["right"]["value"] == pytest.approx(0.55)
    assert player["by_model"]["good"]["rounds"][0]["mended"] is None  # nothing was wrong
    assert player["by_model"]["bad"]["rounds"][0]["broken"]["n"] == 1
    assert (player["rows"], player["prompts"], player["right"]["n"]) == (20, 10, 10)


def test_rows_of_one_prompt_are_resampled_together(tmp_path: Path) -> None:
    """Two models' drafts to each prompt are alike: 20 rows say no more than 10, and the interval is that of 10."""
    models = FakeModels(says(lambda right, draft, task: draft))
    half = set(range(5))
    once = only(checked(tmp_path / "once", models, **given(drafts(tmp_path, {"one": half}))))
    twice = only(checked(tmp_path / "twice", models, **given(drafts(tmp_path, {"one": half, "two": half}))))
    assert {key: once["right"][key] for key in ("low", "high", "n")} == {
        key: twice["right"][key] for key in ("low", "high", "n")
    }


def test_later_rounds_are_of_the_first_rows_and_against_round_one_too(tmp_path: Path) -> None:
    """Each round breaks one more answer of the first four, all of which were right."""

    how = given(drafts(tmp_path, {"gpt": set(range(10))}), rows_file=str(tmp_path / "rows.txt"))
    (tmp_path / "rows.txt").write_text("".join(f"gpt-{n}\n" for n in range(10)))
    rounds: dict[str, int] = {}

    def broken(name: str) -> Reply:
        def reply(task: Task, draft: str | None) -> str | None:
            question = task.chat[-1]["content"]
            rounds[question] = rounds.get(question, 0) + 1
            return "It is 99." if SUMS[question] == str(2 * rounds[question]) else draft

        return reply

    player = only(checked(tmp_path, FakeModels(broken), **{**how, "rounds": 3, "rounds_rows": 4}))
    assert [row["rows"] for row in player["rounds"]] == [10, 4, 4]
    assert [row["right"]["value"] for row in player["rounds"]] == [0.9, 0.5, 0.25]
    assert [row["broken"]["count"] for row in player["rounds"]] == [1, 2, 3]
    assert player["rounds"][0]["against_round_1"] is None
    assert [row["against_round_1"]["value"] for row in player["rounds"][1:]] == [-0.25, -0.5]


def own(folder: Path, **changes: Any) -> dict[str, Any]:
    rows = [
        {"prompt": prompt, "check": {"kind": "number", "answer": answer}, "id": f"sum-{n}"}
        for n, (prompt, answer) in enumerate(SUMS.items())
    ]
    task = {"data": {"files": [str(jsonl(folder / "sums.jsonl", rows))]}, "leaders": ["slhf"]}
    return {"tasks": {"sums": task}, "followers": ["slhf", "base"], "rounds": 1, **changes}


def test_a_leaders_own_answers_are_refined_by_every_follower(tmp_path: Path) -> None:
    """The Leader is wrong always; `slhf` mends all, `base` keeps what it gets."""

    def told(name: str) -> Reply:
        def reply(task: Task, draft: str | None) -> str:
            right = SUMS[task.chat[-1]["content"]]
            return f"It is {right}." if draft and name == "slhf" else draft or "I do not know."

        return reply

    models = FakeModels(told)
    players = checked(tmp_path, models, **own(tmp_path))["tasks"]["sums"]["players"]
    found = {(row["drafts"], row["follower"]): row["rounds"][0]["right"]["value"] for row in players}
    assert found == {("slhf", "slhf"): 1, ("slhf", "base"): 0}
    assert models.opened == ["slhf", "base"]
    assert players[0]["by_model"] == {}


def in_turn(say: Callable[[str, int], str]) -> Callable[[Task, str | None], str | None]:
    """The Leader's answers by question and number; refining makes nothing better."""
    count: dict[str, int] = {}

    def reply(task: Task, draft: str | None) -> str | None:
        question = task.chat[-1]["content"]
        if draft is not None:
            return draft
        count[question] = count.get(question, -1) + 1
        return say(question, count[question])

    return reply


def answering_twice(name: str) -> Callable[[Task, str | None], str | None]:
    """Of each question's two answers of the Leader the longer one is right; for odd ones that is the second."""

    def say(question: str, number: int) -> str:
        return f"It is surely {SUMS[question]}." if number == int(SUMS[question]) // 2 % 2 else "It is 0."

    return in_turn(say)


def test_two_answers_stand_beside_and_without_a_panel_the_first_is_taken(tmp_path: Path) -> None:
    group = checked(tmp_path, FakeModels(answering_twice), **own(tmp_path, two_answers=["slhf"]))["tasks"]["sums"]
    (both,) = group["two_answers"]
    assert (both["right"]["value"], both["chosen"]["value"], both["pass_at_2"]["value"]) == (0.5, 0.5, 1)
    assert both["panel_spoke"] is None
    assert [row["against_two_answers"]["gain"]["value"] for row in group["players"]] == [0, 0]
    assert both["words"] == 3 + 4  # "It is 0." and "It is surely 2."


def test_the_panel_chooses_of_the_two_where_it_speaks(tmp_path: Path) -> None:
    """The longer one, which is the right one."""
    how = own(tmp_path, two_answers=["slhf"])
    judge = {"kind": "callable", "function": "tests.training.evaluation.fakes:longer"}
    group = checked(tmp_path, FakeModels(answering_twice), preference=judge, **how)["tasks"]["sums"]
    (both,) = group["two_answers"]
    assert (both["right"]["value"], both["chosen"]["value"], both["panel_spoke"]["count"]) == (0.5, 1, 10)
    assert [row["against_two_answers"]["gain"]["value"] for row in group["players"]] == [-0.5, -0.5]


def answering_four_times(name: str) -> Callable[[Task, str | None], str | None]:
    """Of four answers to a question the second and the fourth are right, and the others differ."""
    return in_turn(lambda question, number: f"It is {SUMS[question] if number % 2 else -1000 - number}.")


def test_more_answers_vote_where_a_check_reads_a_result(tmp_path: Path) -> None:
    how = own(tmp_path, two_answers=["slhf"], votes=4)
    group = checked(tmp_path, FakeModels(answering_four_times), **how)["tasks"]["sums"]
    (both,) = group["two_answers"]
    assert (both["right"]["value"], both["pass_at_2"]["value"]) == (0, 1)
    assert (both["vote"]["answers"], both["vote"]["right"]["value"]) == (4, 1)
    assert "majority right" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_rows_of_several_tasks_are_pooled_and_chosen_by_model(tmp_path: Path) -> None:
    """Of the strong model's 10 drafts all are right, of the weak one's 10 none, and in the other task 3 of 10."""
    models = FakeModels(says(lambda right, draft, task: draft))
    (tmp_path / "more").mkdir()
    one = drafts(tmp_path, {"strong": set(range(10)), "weak": set()})
    two = drafts(tmp_path / "more", {"weak": {0, 1, 2}})
    rows = [json.loads(line) for line in two.read_text().splitlines()]
    jsonl(two, [row | {"draft": f"I think. {row['draft']}"} for row in rows])
    tasks = {name: {"data": {"files": [str(path)]}} for name, path in (("one", one), ("two", two))}
    pooled = {"all": {"tasks": ["one", "two"]}, "weak": {"tasks": ["one", "two"], "models": ["weak"]}}
    found = checked(tmp_path, models, tasks=tasks, followers=["slhf"], rounds=1, pooled=pooled)
    players = {name: group["players"][0] for name, group in (found["tasks"] | found["pooled"]).items()}
    assert {name: row["rows"] for name, row in players.items()} == {"one": 20, "two": 10, "all": 30, "weak": 20}
    assert players["weak"]["right"]["value"] == pytest.approx(3 / 20)
    assert players["all"]["right"]["value"] == pytest.approx(13 / 30)
    assert players["all"]["prompts"] == 10


def test_a_fence_around_the_same_code_changes_nothing() -> None:
    """Of a program the code counts, to the letter; of any other answer all of the text but the space around it."""
    asked = Prompt([{"role": "user", "content": "Double it."}])
    program = Case(0, asked, asked, "gpt", check=None, entry_point="twice")
    code = "def twice(n):\n    return 2 * n\n"
    assert unchanged(program, code, f"Here it is:\n```python\n{code}```\nIt doubles.")
    assert not unchanged(program, code, f"```python\n{code.replace('2 * n', 'n * 2')}```")
    assert not unchanged(program, code, "It cannot be done.")
    text = replace(program, entry_point=None)
    assert unchanged(text, "It is 4.", " It is 4.\n")
    assert not unchanged(text, code, f"```python\n{code}```")


def test_the_report_begins_with_what_a_reader_wants_to_know(tmp_path: Path) -> None:
    models = FakeModels(says(lambda right, draft, task: f"It is {right}."))
    checked(tmp_path, models, **given(drafts(tmp_path, {"gpt": {0, 1, 2, 3}})))
    lines = (tmp_path / "out" / READABLE).read_text(encoding="utf-8").splitlines()
    headings = [line for line in lines if line.startswith("#")]
    assert headings[:2] == ["# Evaluation", "## Does refining help?"]
    table = [line for line in lines if line.startswith("|")]
    assert table[0].startswith("| task | drafts by | refined by | drafts | right before | right after | change")
    assert table[2].startswith("| sums | other models | slhf | 10 | 40.0 % (")
    assert "6 of 6: 100.0 %" in table[2]
    assert "0 of 4: 0.0 %" in table[2]
    assert not [line for line in lines if "judge abstained" in line or line.startswith("0 prompts")]
    assert (tmp_path / "out" / "checked.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_writes_nothing_again_and_reports_the_same(tmp_path: Path) -> None:
    how = given(drafts(tmp_path, {"gpt": {0, 1}, "other": {2}}))
    first = checked(tmp_path, **how)
    models = FakeModels()
    assert checked(tmp_path, models, **how) == first
    assert models.opened == []


def test_another_rounds_answers_are_added_to_what_is_there(tmp_path: Path) -> None:
    how = given(drafts(tmp_path, {"gpt": {0, 1}}))
    checked(tmp_path, **how)
    models = FakeModels()
    checked(tmp_path, models, **{**how, "rounds": 2, "rounds_rows": 3})
    assert models.written == {"slhf": 3}


def rows_of(figures: Any) -> int:
    return int(only(figures)["rows"])


def test_the_list_of_rows_is_written_once_and_then_read(tmp_path: Path) -> None:
    """What is asked is what is in the list, in its order, whatever the data's order and number are."""
    path, listed = drafts(tmp_path, {"gpt": set(range(10))}), tmp_path / "lists" / "rows.txt"
    how = given(path, rows=4, rows_file=str(listed))
    assert rows_of(checked(tmp_path / "first", **how)) == 4
    ids = listed.read_text().splitlines()
    assert len(set(ids)) == 4
    jsonl(path, [json.loads(line) for line in reversed(path.read_text().splitlines())])
    models = FakeModels()
    assert rows_of(checked(tmp_path / "first", models, **how)) == 4
    assert models.opened == []
    assert listed.read_text().splitlines() == ids


def test_the_same_seed_chooses_the_same_rows_and_another_seed_others(tmp_path: Path) -> None:
    path = drafts(tmp_path, {"gpt": set(range(10))})
    lists = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        how = given(path, rows=5, rows_file=str(tmp_path / name))
        how["tasks"]["sums"]["data"]["seed"] = seed
        checked(tmp_path / f"run-{name}", **how)
        lists.append((tmp_path / name).read_text())
    assert lists[0] == lists[1] != lists[2]


def test_a_limit_asks_fewer_and_lists_all(tmp_path: Path) -> None:
    how = given(drafts(tmp_path, {"gpt": set(range(10))}), rows=5, rows_file=str(tmp_path / "rows.txt"))
    assert rows_of(checked(tmp_path, limit=2, **how)) == 2
    assert len((tmp_path / "rows.txt").read_text().splitlines()) == 5


def test_a_listed_row_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("gpt-0\ngpt-77\n")
    how = given(drafts(tmp_path, {"gpt": set()}), rows_file=str(tmp_path / "rows.txt"))
    with pytest.raises(DataError, match=r"checked.tasks.sums: .*rows.txt: .*'gpt-77'"):
        checked(tmp_path, **how)


@pytest.mark.parametrize("missing", ["check", "draft"])
def test_a_task_whose_rows_lack_what_it_needs_is_named(missing: str, tmp_path: Path) -> None:
    path = drafts(tmp_path, {"gpt": set()})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    jsonl(path, [{name: value for name, value in row.items() if name != missing} for row in rows])
    with pytest.raises(DataError, match=r"checked.tasks.sums: no row has a check and a draft"):
        checked(tmp_path, **given(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"followers": ["gpt"]}, "'gpt' is none of the models"),
        ({"two_answers": ["gpt"]}, "'gpt' is none of the models"),
        ({"pooled": {"all": {"tasks": ["no"]}}}, "checked: .*pooled.all: 'no' is none of the tasks sums"),
        ({"tasks": {}}, "checked.tasks"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        read(tmp_path, checked={**given(Path("drafts.jsonl")), **changes})


def test_no_model_may_have_the_name_of_drafts_that_are_given(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="models: 'given' is the name of drafts"):
        read(tmp_path, models={"given": {"bundle": "x/y"}})
