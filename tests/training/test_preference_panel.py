"""Length taken out of a judge, and judges who speak where they agree; values by hand, and laws for any votes."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from slhf_training.errors import DataError, SettingsError
from slhf_training.preference import Preference, PreferenceSettings, preference_of
from slhf_training.preference.length import WithoutLength, fit_slope, length_ratios, log_odds
from slhf_training.preference.mixture import Panel
from slhf_training.types import Chat, Message, Probabilities

CHAT: Chat = [Message(role="user", content="Say it")]
HERE = "tests.training.test_preference_panel"
SLOPE = 1.5
asked: list[int] = []
"""How many pairs each call of `likes_length` had."""


def merit(text: str) -> float:
    """What an answer is worth but for its length."""
    return float(text.count("good"))


def likes_length(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
    """Log-odds: the difference in merit, and the planted slope on the log of the ratio of 1 + words."""
    asked.append(len(chats))
    odds = [
        merit(a) - merit(b) + SLOPE * math.log((1 + len(a.split())) / (1 + len(b.split())))
        for a, b in zip(first, second, strict=True)
    ]
    return np.array([1 / (1 + math.exp(-x)) for x in odds])


def abstains(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
    return np.full(len(chats), np.nan)


def source(**settings: Any) -> Preference:
    return preference_of(TypeAdapter[Any](PreferenceSettings).validate_python(settings))


def words(count: int) -> str:
    return " ".join(["word"] * count)


def pairs(path: Path) -> Path:
    """The better answer is longer in half of them."""
    rows = [{"prompt": f"Say {n}", "chosen": words(2 * n), "rejected": words(n)} for n in range(1, 9)]
    rows += [
        {**row, "prompt": row["prompt"] + "!", "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


LIKES_LENGTH = {"kind": "callable", "function": f"{HERE}:likes_length"}


def test_a_given_slope_takes_out_what_length_gave() -> None:
    """What is left is the merit: log-odds of 1 for the good one, of 0 for two of none, however long they are."""
    kept = source(kind="without_length", preference=LIKES_LENGTH, slope=SLOPE)
    first, second = ["good", words(2), f"good {words(40)}"], [words(9), words(50), "good"]
    assert kept([CHAT] * 3, first, second) == pytest.approx([1 / (1 + math.exp(-1)), 0.5, 0.5])


def test_a_slope_is_fitted_to_the_judge_without_its_knowing_the_better_answer(tmp_path: Path) -> None:
    """With all answers of one merit the fit is the planted slope itself, and what is left is a half everywhere."""
    rows = [{"prompt": f"Say {n}", "chosen": words(n), "rejected": words(20 - n)} for n in range(1, 9)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fitted = {"pairs": [{"files": [tmp_path / "pairs.jsonl"]}], "file": tmp_path / "runs" / "slope.json"}
    kept = source(kind="without_length", preference=LIKES_LENGTH, fitted=fitted)
    written = json.loads((tmp_path / "runs" / "slope.json").read_text())
    assert written["slope"] == pytest.approx(SLOPE)
    assert written["standard_error"] == pytest.approx(0, abs=1e-6)
    assert (written["pairs"], written["judged"]) == (8, 8)
    assert kept([CHAT], [words(3)], [words(60)]) == pytest.approx([0.5])


def test_a_fitted_slope_is_kept_until_the_judge_or_the_pairs_change(tmp_path: Path) -> None:
    fitted = {"pairs": [{"files": [pairs(tmp_path / "pairs.jsonl")]}], "file": tmp_path / "slope.json"}
    section = {"kind": "without_length", "preference": LIKES_LENGTH, "fitted": fitted}
    source(**section)
    first = (tmp_path / "slope.json").read_text()
    asked.clear()
    source(**section)
    assert not asked
    source(**section | {"fitted": fitted | {"pairs": [{"files": [tmp_path / "pairs.jsonl"], "limit": 4}]}})
    assert asked == [4]
    assert (tmp_path / "slope.json").read_text() != first
    (tmp_path / "slope.json").write_text("{")
    with pytest.raises(SettingsError, match=r"fitted\.file: .*slope\.json"):
        source(**section)


def test_a_slope_by_hand_and_its_error() -> None:
    """Through (1, 2) and (2, 1): (2 + 2) / 5; residuals 1.2 and -.6, so sqrt(1.8 / 1 / 5)."""
    assert fit_slope(np.array([2.0, 1, math.nan]), np.array([1.0, 2, 3])) == pytest.approx((0.8, 0.6))


@pytest.mark.parametrize("odds", [[1.0, 2.0], [math.nan, math.nan]])
def test_pairs_that_tell_no_slope_are_refused(odds: list[float]) -> None:
    with pytest.raises(DataError, match=r"fitted\.pairs: "):
        fit_slope(np.array(odds), np.zeros(2))


def test_a_judge_that_is_certain_stays_finite_and_one_that_abstains_abstains() -> None:
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all()
    assert np.isnan(WithoutLength(abstains, 1.0)([CHAT], ["a"], ["b"])).all()
    assert length_ratios(["", "a b c"], ["a", "a"]) == pytest.approx([-math.log(2), math.log(2)])


def says(*p: float) -> Preference:
    return lambda chats, first, second: np.array(p)


def test_a_panel_speaks_where_all_agree() -> None:
    """Both for the first, both against it, one each, one abstains, one undecided."""
    panel = Panel({"a": (says(0.9, 0.2, 0.9, 0.9, 0.5), 0.0), "b": (says(0.6, 0.4, 0.1, math.nan, 0.9), 0.0)})
    p = panel([CHAT] * 5, ["x"] * 5, ["y"] * 5)
    assert p == pytest.approx([0.75, 0.3, math.nan, math.nan, math.nan], nan_ok=True)
    assert (panel.asked, panel.spoke) == (5, 2)


def test_a_judge_has_to_be_as_sure_as_its_threshold_says() -> None:
    """.125 from a half is not beyond .125."""
    panel = Panel({"a": (says(0.625, 0.75, 0.25), 0.125), "b": (says(0.75, 0.625, 0.375), 0.0)})
    assert panel([CHAT] * 3, ["x"] * 3, ["y"] * 3) == pytest.approx([math.nan, 0.6875, 0.3125], nan_ok=True)


VOTES = st.lists(st.one_of(st.just(math.nan), st.integers(0, 64).map(lambda n: n / 64)), min_size=4, max_size=4)
LEAST = st.integers(0, 31).map(lambda n: n / 64)


@given(st.lists(st.tuples(VOTES, LEAST), min_size=2, max_size=4))
def test_a_panel_is_antisymmetric_and_abstains_in_both_orders(judges: list[tuple[list[float], float]]) -> None:
    def panel(turned: bool) -> Probabilities:
        votes: Mapping[str, tuple[Preference, float]] = {
            str(n): (says(*(1 - np.array(p) if turned else p)), least) for n, (p, least) in enumerate(judges)
        }
        return Panel(votes)([CHAT] * 4, ["x"] * 4, ["y"] * 4)

    p, q = panel(False), panel(True)
    assert p + q == pytest.approx(np.where(np.isnan(p), np.nan, 1.0), nan_ok=True)
    silent = np.isnan(np.array([votes for votes, _ in judges])).any(axis=0)
    assert np.isnan(p[silent]).all()
    for place in np.flatnonzero(~np.isnan(p)):
        assert all((votes[place] > 0.5) == (p[place] > 0.5) for votes, _ in judges)


@given(st.lists(st.tuples(st.integers(0, 64), st.integers(0, 40), st.integers(0, 40)), min_size=1), st.floats(-3, 3))
def test_without_length_is_antisymmetric(rows: list[tuple[int, int, int]], slope: float) -> None:
    p = np.array([n / 64 for n, _, _ in rows])
    first, second = [words(a) for _, a, _ in rows], [words(b) for _, _, b in rows]
    chats = [CHAT] * len(rows)
    forward = WithoutLength(lambda *_: p, slope)(chats, first, second)
    backward = WithoutLength(lambda *_: 1 - p, slope)(chats, second, first)
    assert forward + backward == pytest.approx(np.ones(len(rows)))


def test_panels_are_configured_with_judges_inside() -> None:
    shorter = {"kind": "without_length", "preference": LIKES_LENGTH, "slope": 2 * SLOPE}
    panel = source(
        kind="panel", judges={"free": {"preference": LIKES_LENGTH}, "held": {"preference": shorter, "least": 0.1}}
    )
    assert isinstance(panel, Panel)
    votes = panel.votes([CHAT], [words(30)], [words(2)])
    assert votes.keys() == {"free", "held"}
    assert np.isnan(panel.verdict(votes)).all()  # one is for the longer, one for the shorter


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "panel", "judges": {"one": {"preference": LIKES_LENGTH}}}, "judges"),
        ({"kind": "panel", "judges": {"a b": {"preference": LIKES_LENGTH}, "c": {"preference": LIKES_LENGTH}}}, "a b"),
        ({"kind": "panel", "judges": {"a": {"preference": LIKES_LENGTH, "least": 0.5}}}, "least"),
        ({"kind": "without_length", "preference": LIKES_LENGTH}, "slope or fitted"),
        ({"kind": "without_length", "preference": LIKES_LENGTH, "fitted": {"pairs": []}}, "pairs"),
        ({"kind": "without_length", "preference": {"kind": "oracle"}, "slope": 1}, "kind"),
    ],
)
def test_a_bad_section_names_its_key(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter[Any](PreferenceSettings).validate_python(section)
