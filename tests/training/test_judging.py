"""`slhf-train judge`: accuracy, coverage and length of a preference on pairs that are known; figures by hand."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from slhf_training.cli import main
from slhf_training.reward.evaluation import pair_report, wilson
from slhf_training.types import Chat, Probabilities

HERE = "tests.training.test_judging"
PAIRS = [("long " * 9, "x"), ("long " * 8, "x"), ("x", "long " * 7), ("a b", "c d")]
"""Chosen and rejected: the better answer is longer twice, shorter once, and as long once."""


def longer_wins(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
    more = [len(a.split()) - len(b.split()) for a, b in zip(first, second, strict=True)]
    return np.array([0.5 + 0.4 * np.sign(n) for n in more])


def knows_it_all_but_the_last(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
    return np.array([math.nan if (a, b) == PAIRS[3] else 0.8 for a, b in zip(first, second, strict=True)])


def configuration(folder: Path, preference: dict[str, Any], **more: Any) -> Path:
    rows = [{"prompt": f"Say {n}", "chosen": a, "rejected": b, "id": f"p{n}"} for n, (a, b) in enumerate(PAIRS)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {"preference": preference, "output_dir": "out", "pairs": {"known": [{"files": ["pairs.jsonl"]}]}} | more
    (folder / "judge.yaml").write_text(yaml.safe_dump(content))
    return folder / "judge.yaml"


def callable_named(name: str) -> dict[str, Any]:
    return {"kind": "callable", "function": f"{HERE}:{name}"}


def report_of(folder: Path) -> Any:
    return json.loads((folder / "out" / "report.json").read_text())["sets"]["known"]


def test_a_preference_is_held_against_pairs_that_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Right where the better one is longer, wrong where it is shorter, half where both are as long: 2.5 of 4."""
    assert main(["judge", str(configuration(tmp_path, callable_named("longer_wins")))]) == 0
    facts = report_of(tmp_path)["callable"]
    assert (facts["pairs"], facts["coverage"], facts["accuracy"], facts["picks_longer"]) == (4, 1.0, 0.625, 1.0)
    assert {name: (one["n"], one["accuracy"]) for name, one in facts["by_length"].items()} == {
        "chosen longer": (2, 1.0),
        "about equal": (1, 0.5),
        "chosen shorter": (1, 0.0),
    }
    said = capsys.readouterr().out
    assert said == (tmp_path / "out" / "report.md").read_text()
    assert "| known | callable | 4 | 1.000 | 0.625 ± 0.242 |" in said


def test_of_a_panel_each_judge_is_reported_and_every_verdict_kept(tmp_path: Path) -> None:
    """They agree on the two pairs whose better answer is longer; one abstains from the last, and so do all."""
    names = ("longer_wins", "knows_it_all_but_the_last")
    panel = {"kind": "panel", "judges": {name: {"preference": callable_named(name)} for name in names}}
    assert main(["judge", str(configuration(tmp_path, panel))]) == 0
    report = report_of(tmp_path)
    assert {name: (one["coverage"], one["accuracy"]) for name, one in report.items()} == {
        "longer_wins": (1.0, 0.625),
        "knows_it_all_but_the_last": (0.75, 1.0),
        "where all agree": (0.5, 1.0),
    }
    rows = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    by_id = {row["id"]: row for row in rows}
    assert by_id["p3"]["p"] == {"longer_wins": 0.5, "knows_it_all_but_the_last": None, "where all agree": None}
    assert by_id["p0"]["words"] == [9, 1]
    assert by_id["p0"]["p"]["where all agree"] == pytest.approx(0.85)


def test_a_limit_takes_the_first_pairs_of_each_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configuration(tmp_path, callable_named("longer_wins"))
    assert main(["judge", str(config), "--limit", "2"]) == 0
    assert report_of(tmp_path)["callable"]["pairs"] == 2
    assert main(["judge", str(config), "--limit", "0"]) == 1
    assert "--limit: 0 is not above 0" in capsys.readouterr().err


def test_rows_without_a_pair_are_refused_by_the_name_of_their_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "asked.jsonl").write_text('{"prompt": "Say it"}\n')
    config = configuration(tmp_path, callable_named("longer_wins"), pairs={"mine": [{"files": ["asked.jsonl"]}]})
    assert main(["judge", str(config)]) == 1
    assert "pairs.mine: no row has a pair" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_judged_is_reported_as_nothing() -> None:
    report = pair_report(np.array([]), [])
    assert (report["accuracy"], report["coverage"], report["interval"], report["picks_longer"]) == (None,) * 4


def test_an_interval_by_hand() -> None:
    """Wilson for 8 of 10, from the published formula: .490 to .943; for none of 10 it is not empty: 0 to .278."""
    assert wilson(8, 10) == pytest.approx((0.490, 0.943), abs=5e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.278), abs=5e-4)
