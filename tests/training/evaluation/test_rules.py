"""The section `rules`: figures of each rule on rounds whose rights, wrongs and verdicts are known."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slhf.bundle import Bundle, read_bundle, write_bundle
from slhf.errors import BundleError
from slhf_training.errors import SettingsError
from slhf_training.evaluation.run import READABLE, evaluate
from slhf_training.types import Chat, Probabilities
from tests.training.evaluation.fakes import FakeModels, Reply, jsonl, settings
from tests.training.evaluation.test_sections import read

NUMBERS = range(60)
DECIDES = {"kind": "callable", "function": "tests.training.evaluation.test_rules:decides"}
MEASURES = {"kind": "callable", "function": "tests.training.evaluation.test_rules:measures"}


def decides(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
    """Knows "good" from the rest, and speaks of nothing else."""
    good = [("good" in one, "good" in two) for one, two in zip(first, second, strict=True)]
    return np.array([0.85 if one > two else 0.15 if two > one else np.nan for one, two in good])


def measures(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
    """The longer text is better."""
    return np.array([0.5 + np.sign(len(one) - len(two)) * 0.4 for one, two in zip(first, second, strict=True)])


def follower(name: str) -> Reply:
    """Round 1 is right and good for even numbers and says 0 for odd ones; then the text stays as it is, and a long one
    is broken by round 3."""

    def reply(task: Any, draft: str | None) -> str:
        number = int(task.chat[0]["content"].split()[2])
        assert draft is not None
        if draft.startswith("Draft"):
            return f"A good answer: it is {number}." if number % 2 == 0 else "It is 0."
        return draft

    return reply


def drafts(folder: Path) -> Path:
    """Even numbers' drafts are wrong and odd numbers' right."""
    rows = [
        {"id": f"n{n}", "prompt": f"What is {n} ?", "check": {"kind": "number", "answer": str(n)}, "model": "gpt"}
        | {"draft": f"Draft: {n if n % 2 else n + 1}."}
        for n in NUMBERS
    ]
    return jsonl(folder / "drafts.jsonl", rows)


def asked(folder: Path, **changes: Any) -> Any:
    task = {"data": {"files": [str(drafts(folder))]}}
    how = {"tasks": {"sums": task}, "followers": ["slhf"], "judge": DECIDES, "rounds": 2, **changes}
    return settings(folder, prompts=None, preference=MEASURES, rules=how)


def found(folder: Path, **changes: Any) -> tuple[Any, dict[tuple[str, float | None], Any]]:
    figures = evaluate(asked(folder, **changes), opened=FakeModels(follower))["sections"]["rules"]["slhf"]
    return figures, {(row["rule"], row["value"]): row for row in figures["groups"]["all"]}


def test_each_rule_has_its_gain_its_harm_and_its_price(tmp_path: Path) -> None:
    """A round mends all wrong drafts and breaks all right ones; the judge prefers the mended ones alone."""
    figures, rows = found(tmp_path)
    one, both, judged = rows["last", 1], rows["last", 2], rows["select", 0.6]
    assert figures["rows"]["validation"] + figures["rows"]["test"] == len(NUMBERS)
    for row in (one, both):
        assert row["mended"]["count"] == row["mended"]["n"] > 0
        assert row["broken"]["count"] == row["broken"]["n"] > 0
        assert row["verdicts"]["value"] == 0
    assert (judged["broken"]["count"], judged["mended"]["value"]) == (0, 1)
    assert judged["harm"]["value"] == 0
    assert one["harm"]["value"] == pytest.approx(one["broken"]["n"] / figures["rows"]["test"])
    assert judged["gain"]["value"] == pytest.approx(judged["mended"]["n"] / figures["rows"]["test"])
    assert judged["gain"]["low"] < judged["gain"]["value"] < judged["gain"]["high"]
    assert (rows["last", 0]["gain"]["value"], rows["last", 0]["kept_the_draft"]["value"]) == (0, 1)
    assert judged["kept_the_draft"]["value"] == pytest.approx(judged["broken"]["n"] / figures["rows"]["test"])


def test_the_judge_that_measures_sees_the_returned_text_beside_the_draft(tmp_path: Path) -> None:
    """ "A good answer: ..." is longer than its draft, p = .9, and "It is 0." is shorter than most: p = .1."""
    _, rows = found(tmp_path)
    row = rows["select", 0.6]
    kept = row["kept_the_draft"]["value"]
    assert row["judged"]["value"] == pytest.approx(0.9 * (1 - kept) + 0.5 * kept)
    assert row["judged_harm"]["value"] == 0
    assert rows["last", 1]["judged_harm"]["value"] > 0


def test_verdicts_are_counted_where_texts_differ(tmp_path: Path) -> None:
    """Round 2 repeats round 1, of which the judge has said what it thinks."""
    _, rows = found(tmp_path)
    assert rows["select", 0.6]["verdicts"]["value"] == 1
    assert rows["no_gain", None]["verdicts"]["value"] == 1
    assert rows["no_gain", None]["read"]["value"] > 0
    assert rows["unchanged", None]["read"]["value"] == 0


def test_thresholds_are_chosen_on_rows_that_the_figures_do_not_see(tmp_path: Path) -> None:
    """All useful rounds are round 1, the mended ones: about 15 of the validation's 30 rows, enough for alpha .2."""
    figures, _ = found(tmp_path, alpha=0.2, margins=[0.6, 0.8, 0.9], sure=[0.6, 0.9])
    assert 5 <= figures["useful"] <= 25
    assert figures["thresholds"]["select"] == 0.8  # the judge's .85 does not reach .9
    assert figures["thresholds"]["judge_sure"] == 0.6  # a round that is stopped after is not lost
    assert figures["thresholds"]["small_edit"] == 0.2
    again, _ = found(tmp_path, alpha=0.2, margins=[0.6, 0.8, 0.9], sure=[0.6, 0.9])
    assert again == figures
    none, _ = found(tmp_path, alpha=0.01)
    assert set(none["thresholds"].values()) == {None}
    said = "No threshold is known to lose few enough useful rounds for: small_edit, judge_sure, select."
    assert said in (tmp_path / "out" / READABLE).read_text(encoding="utf-8")


def test_the_report_has_a_table_and_marks_what_was_chosen(tmp_path: Path) -> None:
    found(tmp_path, alpha=0.2, margins=[0.6, 0.8])
    text = (tmp_path / "out" / READABLE).read_text(encoding="utf-8")
    assert "## Stop rules: refined by slhf" in text
    assert "| select 0.8 * | " in text
    assert "| last 2 | " in text


def test_thresholds_are_written_into_the_manifest_and_the_card_where_asked(tmp_path: Path) -> None:
    how = asked(tmp_path, alpha=0.2, margins=[0.6, 0.8], sure=[0.7], write=True)
    before = read_bundle(tmp_path / "slhf")
    models = FakeModels(follower)
    evaluate(how, opened=models)
    bundle = read_bundle(tmp_path / "slhf")
    assert bundle.stop_rules.model_dump() == {
        "small_edit": {"edit_ratio": 0.2},
        "judge_sure": {"p": 0.7},
        "select": {"margin": 0.8},
    }
    assert bundle.card()["stop_rules"]["select"] == {"margin": 0.8}
    card = bundle.evaluation["rules"]
    assert (card["alpha"], card["judge"]["function"]) == (0.2, DECIDES["function"])
    assert [row["rule"] for row in card["rules"]][:4] == ["last", "last", "last", "unchanged"]
    assert bundle.model_dump(exclude={"stop_rules", "evaluation"}) == before.model_dump(
        exclude={"stop_rules", "evaluation"}
    )
    written = dict(models.written)
    evaluate(how, opened=models)
    assert models.written == written  # the thresholds change nothing of what it writes


def test_a_bundle_that_asks_for_a_rule_keeps_its_threshold_where_none_is_found(tmp_path: Path) -> None:
    how = asked(tmp_path, alpha=0.01, write=True)
    before = read_bundle(tmp_path / "slhf")
    wishes = {"stop_when": ["small_edit"], "stop_rules": {"small_edit": {"edit_ratio": 0.1}}}
    write_bundle(tmp_path / "slhf", Bundle.model_validate(before.model_dump() | wishes))
    with pytest.raises(SettingsError, match=r"rules\.write: .*slhf: .*small_edit needs a threshold"):
        evaluate(how, opened=FakeModels(follower))
    assert read_bundle(tmp_path / "slhf").stop_rules.small_edit is not None
    assert (tmp_path / "out" / READABLE).exists()


def test_rows_without_a_check_are_the_measuring_judges(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {n} ?", "draft": f"Draft: {n}.", "model": "gpt"} for n in range(20)]
    task = {"data": {"files": [str(jsonl(tmp_path / "open.jsonl", rows))]}}
    _, by_rule = found(tmp_path, tasks={"open": task})
    assert by_rule["last", 1]["gain"] is None
    assert by_rule["last", 1]["mended"] is None
    assert by_rule["last", 1]["judged"]["value"] > 0


def test_what_decides_must_not_be_what_measures(tmp_path: Path) -> None:
    section = {"tasks": {"sums": {"data": {"files": ["drafts.jsonl"]}}}, "followers": ["slhf"]}
    mixed = {"kind": "mixture", "sources": [{"weight": 1, "preference": MEASURES}]}
    for judge in (MEASURES, mixed):
        with pytest.raises(SettingsError, match=r"rules\.judge: what decides must not be what measures"):
            read(tmp_path, preference=MEASURES, rules=section | {"judge": judge})
    program = {"kind": "checked", "data": [{"files": ["drafts.jsonl"]}], "tie": "half"}
    with pytest.raises(SettingsError, match=r"rules\.judge: what decides must not be the program that measures"):
        read(tmp_path, preference=MEASURES, rules=section | {"judge": program})


def test_copies_of_one_reward_model_are_the_same_judge(tmp_path: Path) -> None:
    for name in ("one", "copy", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "reward.json").write_text(json.dumps({"backbone": "other" if name == "other" else "one"}))
    section = {"tasks": {"sums": {"data": {"files": ["drafts.jsonl"]}}}, "followers": ["slhf"]}

    def judged(name: str) -> dict[str, Any]:
        return {"kind": "reward", "model": str(tmp_path / name)}

    with pytest.raises(SettingsError, match="what decides must not be what measures"):
        read(tmp_path, preference=judged("one"), rules=section | {"judge": judged("copy")})
    assert read(tmp_path, preference=judged("one"), rules=section | {"judge": judged("other")})


def test_only_a_directorys_manifest_is_written(tmp_path: Path) -> None:
    section = {"tasks": {"sums": {"data": {"files": ["drafts.jsonl"]}}}, "followers": ["slhf"], "judge": DECIDES}
    models = {"slhf": {"bundle": "builtin:smollm2-135m-slhf"}}
    with pytest.raises(SettingsError, match=r"rules\.write: 'slhf' is no directory"):
        read(tmp_path, models=models, preference=MEASURES, rules=section | {"write": True})


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ({"select": {"margin": 0.4}}, r"stop_rules\.select\.margin"),
        ({"small_edit": {"edit_ratio": 1.5}}, r"stop_rules\.small_edit\.edit_ratio"),
        ({"unheard_of": {}}, r"stop_rules\.unheard_of"),
    ],
)
def test_a_bad_threshold_in_a_manifest_is_named(tmp_path: Path, rules: dict[str, Any], problem: str) -> None:
    (tmp_path / "slhf.json").write_text(json.dumps(Bundle(name="x").model_dump() | {"stop_rules": rules}))
    with pytest.raises(BundleError, match=problem):
        read_bundle(tmp_path)
