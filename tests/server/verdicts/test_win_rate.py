"""The interval of a win rate: its closed form, its promise at daily looks, and length control as training has it."""

import math
import random

import numpy as np
import pytest

from slhf_server.verdicts.win_rate import decision, interval, length_controlled
from slhf_training.evaluation import statistics


@pytest.mark.parametrize("n", [1, 5, 20, 400])
def test_where_one_side_always_wins_the_interval_has_its_closed_form(n: int) -> None:
    """All wins: p^n = alpha * B(1 + n, 1) = alpha / (n + 1) at the lower end."""
    low, high = interval(n, 0)
    assert high == 1
    assert low == pytest.approx((0.05 / (n + 1)) ** (1 / n), rel=1e-9)
    assert interval(0, n)[0] == 0
    assert interval(0, n)[1] == pytest.approx(1 - low)


def test_the_ends_are_where_the_likelihood_ratio_reaches_one_in_alpha() -> None:
    """(n + 1) * C(n, w) * p^w * (1 - p)^(n - w) is the inverse of the mixture's ratio."""
    wins, losses = 61, 39
    low, high = interval(wins, losses)
    for end in (low, high):
        inverse = 101 * math.comb(100, wins) * end**wins * (1 - end) ** losses
        assert inverse == pytest.approx(0.05, rel=1e-6)
    assert low < 0.61 < high


def test_of_nothing_everything_is_possible() -> None:
    assert interval(0, 0) == (0, 1)
    assert decision(0, 0) == "undecided"


@pytest.mark.parametrize("rate", [0.5, 0.7])
def test_whoever_looks_every_day_is_wrong_in_one_case_of_twenty_at_most(rate: float) -> None:
    """400 experiments of 40 days with 10 decisive verdicts each; an interval for one look would fail in far more."""
    chance, missed = random.Random(22), 0
    for _ in range(400):
        wins, looks = 0, []
        for day in range(1, 41):
            wins += sum(chance.random() < rate for _ in range(10))
            looks.append(interval(wins, 10 * day - wins))
        missed += any(not low <= rate <= high for low, high in looks)
    assert missed <= 20


def test_a_clear_lead_is_found_before_the_shadow_ends() -> None:
    assert [decision(140, 60), decision(60, 140), decision(104, 96)] == ["on", "off", "undecided"]


def test_length_control_is_trainings() -> None:
    chance = np.random.default_rng(22)
    longer = chance.normal(120, 300, size=200).astype(int)
    wins = (chance.random(200) < 1 / (1 + np.exp(-longer / 200))).astype(float)
    wins[::10] = 0.5
    theirs = statistics.length_controlled(wins, longer.astype(float), statistics.Bootstrap(1))
    assert theirs is not None
    found = length_controlled(wins.tolist(), longer.tolist())
    assert found == pytest.approx(theirs.value, abs=1e-9)
    assert found < wins.mean()  # the refined texts are longer, which wins


@pytest.mark.parametrize(("scores", "longer"), [([], []), ([1.0, 0.0], [7, 7])])
def test_length_that_cannot_be_told_from_quality_is_not_controlled(scores: list[float], longer: list[int]) -> None:
    assert length_controlled(scores, longer) is None


def test_equally_long_texts_need_no_control() -> None:
    assert length_controlled([1.0, 1.0, 0.0, 0.0], [0, 0, 0, 0]) == pytest.approx(0.5)
    always = length_controlled([1.0] * 50, [0] * 50)
    assert always is not None
    assert 0.9 < always < 1
