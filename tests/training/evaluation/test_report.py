"""The report's figures for texts whose verdicts are known, and its files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slhf_training.evaluation.generation import Task
from slhf_training.evaluation.run import EXPORTS, READABLE, REPORT, evaluate
from slhf_training.evaluation.sections import registered
from slhf_training.evaluation.sections.benchmarks import ALPACA_EVAL, IFEVAL
from tests.training.evaluation.fakes import QUESTIONS, FakeModels, Longer, Reply, jsonl, settings

SECTIONS: dict[str, Any] = {
    "round_robin": {"players": ["base", "slhf", "slhf > slhf"]},
    "refinement": {"leaders": ["base", "slhf"], "followers": ["base", "slhf"]},
    "rounds": {"leaders": ["slhf"], "followers": ["slhf"], "rounds": 2},
    "cycles": {"models": ["slhf"], "samples": 3},
}


def reported(folder: Path, opened: FakeModels | None = None, judge: Any = None, **sections: Any) -> dict[str, Any]:
    return evaluate(settings(folder, **sections), opened=opened or FakeModels(), judge=(judge or Longer()).of)


def test_every_section_is_in_all_three_forms(tmp_path: Path) -> None:
    report = reported(tmp_path, **SECTIONS)
    out = tmp_path / "out"
    assert json.loads((out / REPORT).read_text()) == report
    assert set(report["sections"]) == set(SECTIONS)
    text = (out / READABLE).read_text()
    for title in ("Round robin", "Refinement", "Rounds: slhf refined by slhf", "Cycles"):
        assert f"## {title}\n" in text
    drawn = registered()["rounds"].picture(report["sections"]["rounds"])
    assert drawn is not None
    assert all(tick == int(tick) for axes in drawn.axes for tick in axes.get_xticks())  # there is no round 0.25
    for name in ("round_robin", "refinement", "rounds"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_markdown_tables_are_whole(tmp_path: Path) -> None:
    reported(tmp_path, **SECTIONS)
    table: list[str] = []
    for line in [*(tmp_path / "out" / READABLE).read_text().splitlines(), ""]:
        if line.startswith("|"):
            table.append(line)
        elif table:
            assert len({row.count("|") for row in table}) == 1, table
            table = []


def test_a_round_robin_compares_each_two_once(tmp_path: Path) -> None:
    """ "base: q" and "slhf: q" are equally long; "slhf: q +slhf" is longer than both."""
    section = reported(tmp_path, round_robin=SECTIONS["round_robin"])["sections"]["round_robin"]
    found = {(duel["row"], duel["column"]): duel["preference"]["value"] for duel in section["duels"]}
    assert found == {("base", "slhf"): 0.5, ("base", "slhf > slhf"): 0, ("slhf", "slhf > slhf"): 0}
    assert "| **slhf > slhf** | 1.000 (1.000–1.000) | 1.000" in (tmp_path / "out" / READABLE).read_text()
    assert section["players"]["slhf > slhf"]["words"] == pytest.approx(np.mean([7, 6, 5]))


def test_a_refinement_is_judged_against_the_very_draft(tmp_path: Path) -> None:
    """The draft "slhf: q" has 1 + n words and becomes "slhf: q +slhf": one word of 2n + 3 is new."""
    duels = reported(tmp_path, refinement=SECTIONS["refinement"])["sections"]["refinement"]["duels"]
    assert [(duel["leader"], duel["follower"]) for duel in duels] == [
        ("base", "base"),
        ("base", "slhf"),
        ("slhf", "base"),
        ("slhf", "slhf"),
    ]
    assert {duel["preference"]["value"] for duel in duels} == {1}
    words = [len(question.split()) for question in QUESTIONS]
    ratio = duels[0]["changes"]["edit_ratio"]["value"]
    assert ratio == pytest.approx(np.mean([1 / (2 * n + 3) for n in words]))
    assert duels[0]["changes"]["unchanged"]["value"] == 0


def test_rounds_are_compared_with_the_draft_and_the_best_so_far_never_falls(tmp_path: Path) -> None:
    """Round 1 is shorter than the draft, round 2 longer: 0, then 1; the best so far is a tie, a tie, then 1."""

    def told(name: str) -> Reply:
        def reply(task: Task, draft: str | None) -> str:
            return {None: "dd", "dd": "s"}.get(draft, "longer")

        return reply

    curve = reported(tmp_path, FakeModels(told), rounds=SECTIONS["rounds"])["sections"]["rounds"]["curves"][0]
    rounds = curve["rounds"]
    assert [row["round"] for row in rounds] == [0, 1, 2]
    assert [row["against_draft"]["preference"]["value"] for row in rounds[1:]] == [0, 1]
    assert [row["best_of"]["value"] for row in rounds] == [0.5, 0.5, 1]
    assert "best_of_samples" not in curve


def test_samples_of_the_leader_stand_beside_as_many_rounds(tmp_path: Path) -> None:
    both = {"rounds": SECTIONS["rounds"], "cycles": SECTIONS["cycles"]}
    curve = reported(tmp_path, **both)["sections"]["rounds"]["curves"][0]
    assert [row["value"] for row in curve["best_of_samples"]] == [0.5, 0.5, 0.5]  # all samples are the same text


class Circle(Longer):
    """r beats s beats p beats r; anything else loses to the earlier letter."""

    def __call__(self, chats: Any, first: Any, second: Any) -> Any:
        beats = {("r", "s"), ("s", "p"), ("p", "r")}
        return np.array(
            [
                1.0 if (a, b) in beats else 0.0 if (b, a) in beats else float(a < b)
                for a, b in zip(first, second, strict=True)
            ]
        )


def test_cycles_are_found_among_different_answers(tmp_path: Path) -> None:
    """Prompt 1 gets r, s, p (a cycle), prompt 2 gets r, s, r (two answers, one wins), prompt 3 gets a, b, c."""
    answers = dict(zip(QUESTIONS, ("rsp", "rsr", "abc"), strict=True))

    def told(name: str) -> Reply:
        count: dict[str, int] = {}

        def reply(task: Task, draft: str | None) -> str:
            question = task.chat[0]["content"]
            count[question] = count.get(question, -1) + 1
            return answers[question][count[question]]

        return reply

    found = reported(tmp_path, FakeModels(told), Circle(), cycles=SECTIONS["cycles"])["sections"]["cycles"]["slhf"]
    assert found["with_cycle"]["value"] == found["without_condorcet_winner"]["value"] == pytest.approx(1 / 3)
    assert found["different_answers"]["value"] == pytest.approx((3 + 2 + 3) / 3)


class Silent(Longer):
    """Abstains from one prompt."""

    def __call__(self, chats: Any, first: Any, second: Any) -> Any:
        p = super().__call__(chats, first, second)
        return np.where([chat[0]["content"] == QUESTIONS[0] for chat in chats], np.nan, p)


def test_a_judge_that_abstains_is_counted_and_never_a_tie(tmp_path: Path) -> None:
    report = reported(tmp_path, judge=Silent(), refinement={"leaders": ["base"], "followers": ["slhf"]})
    duel = report["sections"]["refinement"]["duels"][0]
    assert (duel["prompts"], duel["without_verdict"], duel["preference"]["value"]) == (2, 1, 1)
    assert report["judgements"] == {"asked": 3, "abstained": 1}


def test_a_follower_without_an_answer_keeps_the_draft_and_is_counted(tmp_path: Path) -> None:
    models = FakeModels(lambda name: lambda task, draft: "draft" if draft is None else None)
    duel = reported(tmp_path, models, refinement={"leaders": ["base"], "followers": ["slhf"]})["sections"][
        "refinement"
    ]["duels"][0]
    assert duel["refined"]["kept_the_draft"] == 3
    assert (duel["preference"]["value"], duel["changes"]["unchanged"]["value"]) == (0.5, 1)


def test_a_prompt_that_a_leader_refuses_has_no_verdict(tmp_path: Path) -> None:
    models = FakeModels(lambda name: lambda task, draft: None if "fish" in task.chat[0]["content"] else "text")
    section = reported(tmp_path, models, round_robin={"players": ["base", "slhf"]})["sections"]["round_robin"]
    assert section["duels"][0]["without_verdict"] == 1
    assert section["players"]["base"]["refused"] == 1


def test_drafts_of_models_that_are_not_run_are_players(tmp_path: Path) -> None:
    """The file of AlpacaEval has `instruction`; a prompt without a draft has no verdict."""
    drafts = jsonl(
        tmp_path / "drafts.jsonl",
        [
            {"instruction": QUESTIONS[0], "output": "x" * 100, "model": "gpt"},
            {"instruction": QUESTIONS[0], "output": "", "model": "other"},
            {"prompt": [{"role": "user", "content": QUESTIONS[1]}], "output": "y", "model": "gpt"},
        ],
    )
    models = {"gpt": {"drafts": str(drafts), "model": "gpt"}, "slhf": {"bundle": str(tmp_path / "slhf")}}
    report = reported(tmp_path, models=models, round_robin={"players": ["gpt", "gpt > slhf"]})
    duel = report["sections"]["round_robin"]["duels"][0]
    assert (duel["prompts"], duel["without_verdict"], duel["preference"]["value"]) == (2, 1, 0)
    assert report["models"]["gpt"] == models["gpt"]


def test_exports_are_what_the_benchmarks_read(tmp_path: Path) -> None:
    asked = jsonl(
        tmp_path / "ifeval.jsonl",
        [{"key": 7, "prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}],
    )
    eval_prompts = jsonl(tmp_path / "alpaca.jsonl", [{"instruction": "Say ä."}])
    reported(
        tmp_path,
        alpaca_eval={"prompts": {"files": [str(eval_prompts)]}, "players": ["slhf", "slhf > slhf"]},
        ifeval={"files": [str(asked)], "players": ["slhf > slhf"], "checker": "exact"},
    )
    folder = tmp_path / "out" / EXPORTS
    rows = json.loads((folder / "slhf--slhf" / ALPACA_EVAL).read_text(encoding="utf-8"))
    assert rows == [{"instruction": "Say ä.", "output": "slhf: Say ä. +slhf", "generator": "slhf > slhf"}]
    assert (folder / "slhf" / ALPACA_EVAL).exists()
    lines = (folder / "slhf--slhf" / IFEVAL).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"prompt": "No commas.", "response": "slhf: No commas. +slhf"}]


def test_ifeval_tells_what_refinement_gains_and_loses(tmp_path: Path) -> None:
    """Two prompts forbid commas. The drafts follow; the Follower puts a comma into one of them."""
    rows = [
        {"key": number, "prompt": prompt, "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"x": None}]}
        for number, prompt in enumerate(("first", "second"))
    ]
    asked = jsonl(tmp_path / "ifeval.jsonl", rows)

    def told(name: str) -> Reply:
        return lambda task, draft: "a, b" if draft and task.chat[0]["content"] == "first" else "a b"

    report = reported(
        tmp_path,
        FakeModels(told),
        ifeval={"files": [str(asked)], "players": ["slhf", "slhf > slhf"], "checker": "exact"},
    )
    section = report["sections"]["ifeval"]
    assert section["players"]["slhf"]["prompt_strict"]["value"] == 1
    refined = section["players"]["slhf > slhf"]
    assert refined["prompt_loose"]["value"] == refined["instruction_strict"]["value"] == 0.5
    assert refined["gain_prompt_strict"]["value"] == -0.5
    assert (section["checker"], section["kinds"], section["prompts"]) == ("exact", ["punctuation:no_comma"], 2)
    assert "## IFEval" in (tmp_path / "out" / READABLE).read_text()


def test_a_limit_takes_the_first_prompts(tmp_path: Path) -> None:
    how = settings(tmp_path, round_robin={"players": ["base", "slhf"]})
    assert evaluate(how, limit=2, opened=FakeModels(), judge=Longer().of)["prompts"] == 2
