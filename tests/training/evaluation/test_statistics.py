"""Intervals, win rates and length control, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from slhf_training.evaluation.sections.cycles import has_cycle, tournament
from slhf_training.evaluation.statistics import (
    Bootstrap,
    edit,
    language,
    length_controlled,
    loops,
    preferred,
    regression,
    share,
)

NO_RIDGE = 0.0


def test_the_value_is_the_mean_of_what_was_judged() -> None:
    found = Bootstrap(100).mean(np.array([1.0, 0.0, 1.0, np.nan]))
    assert found is not None
    assert (found.value, found.n) == (2 / 3, 3)


def test_the_interval_of_a_constant_is_the_constant() -> None:
    found = Bootstrap(100).mean(np.full(7, 0.25))
    assert found is not None
    assert found.low == pytest.approx(0.25)
    assert found.high == pytest.approx(0.25)


def test_the_interval_of_many_coins_is_the_binomials() -> None:
    """400 fair coins, half of them heads: a resample's share has mean 1/2 and standard deviation sqrt(1/4 / 400) =
    0.025, so 95 % of them lie within 1.96 * 0.025 = 0.049."""
    found = Bootstrap(20_000).mean(np.tile([0.0, 1.0], 200))
    assert found is not None
    assert found.low == pytest.approx(0.451, abs=0.003)
    assert found.high == pytest.approx(0.549, abs=0.003)


def test_two_prompts_that_disagree_say_nothing() -> None:
    """A resample of {0, 1} has mean 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4: both tails are thicker than 2.5 %."""
    found = Bootstrap(1000).mean(np.array([0.0, 1.0]))
    assert found is not None
    assert (found.low, found.value, found.high) == (0, 0.5, 1)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (0, 10, 0, 0.3085),
        (10, 10, 0.6915, 1),
        (2, 10, 0.0252, 0.5561),
        (5, 10, 0.1871, 0.8129),
        (1, 20, 0.0013, 0.2487),
    ],
)
def test_a_share_has_the_interval_of_clopper_and_pearson(k: int, n: int, low: float, high: float) -> None:
    """Published tables of exact binomial limits."""
    found = share(k, n)
    assert found is not None
    assert (found.value, found.n) == (k / n, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


def test_an_exact_interval_of_many_trials_is_as_exact() -> None:
    """With no success in n the upper limit is 1 - 0.025 ** (1 / n), because no success has (1 - p) ** n."""
    found = share(0, 700)
    assert found is not None
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 700), rel=1e-9)
    assert share(0, 0) is None


def test_values_of_one_prompt_are_resampled_together() -> None:
    """Each prompt's values are alike, so that three of each say what one of each does; a mean is of values."""
    values = np.random.default_rng(0).random(20)
    once = Bootstrap(200).mean_by(values, [f"{n:02}" for n in range(20)])
    thrice = Bootstrap(200).mean_by(np.repeat(values, 3), [f"{n:02}" for n in np.repeat(range(20), 3)])
    assert once is not None
    assert thrice is not None
    assert (thrice.low, thrice.high, thrice.n) == pytest.approx((once.low, once.high, 20))
    unequal = Bootstrap(10).mean_by(np.array([1.0, 1.0, 1.0, 0.0, np.nan]), ["a", "a", "a", "b", "c"])
    assert unequal is not None
    assert (unequal.value, unequal.n) == (0.75, 2)
    assert Bootstrap(10).mean_by(np.array([np.nan]), ["a"]) is None


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(3).random(50)
    assert Bootstrap(100, seed=1).mean(values) == Bootstrap(100, seed=1).mean(values)
    assert Bootstrap(100, seed=1).mean(values) != Bootstrap(100, seed=2).mean(values)


def test_nothing_judged_has_no_estimate() -> None:
    assert Bootstrap(10).mean(np.array([np.nan])) is None
    assert length_controlled(np.array([np.nan]), np.array([1.0]), Bootstrap(10)) is None


def test_a_preference_counts_for_one_and_a_tie_for_half() -> None:
    assert preferred(np.array([0.2, 0.5, 0.51, np.nan])).tolist()[:3] == [0, 0.5, 1]


def test_length_control_takes_out_what_length_explains() -> None:
    """Half the prompts have an answer longer by d and p = a, half one shorter by d and p = b. Then std(d) = d, the
    features are t = tanh(1) and -t, and two coefficients fit both: theta + phi t = logit a, theta - phi t = logit b. So
    theta = (logit a + logit b) / 2. With a = 0.9 and b = 0.5: theta = ln(9) / 2 = ln 3, and sigmoid(ln 3) = 3/4, while
    the plain mean is 0.7."""
    p = np.array([0.9, 0.5] * 10)
    found = length_controlled(p, np.array([40.0, -40.0] * 10), Bootstrap(50), ridge=NO_RIDGE)
    assert found is not None
    assert found.value == pytest.approx(0.75, abs=1e-9)
    assert found.low <= found.value <= found.high


def test_length_control_makes_a_judge_who_only_likes_length_indifferent() -> None:
    """p = 0.8 when longer and 0.2 when shorter: theta = (logit 0.8 + logit 0.2) / 2 = 0, whatever the share longer."""
    longer = np.array([1.0, 1.0, 1.0, -1.0]) * 30
    p = np.where(longer > 0, 0.8, 0.2)
    found = length_controlled(p, longer, Bootstrap(10), ridge=NO_RIDGE)
    assert p.mean() == pytest.approx(0.65)
    assert found is not None
    assert found.value == pytest.approx(0.5, abs=1e-9)


def test_answers_of_equal_length_are_judged_as_they_are() -> None:
    """All features are zero: sigmoid(theta) is the mean."""
    p = np.array([0.25, 0.5, 0.75, 0.9])
    found = length_controlled(p, np.zeros(4), Bootstrap(10), ridge=NO_RIDGE)
    assert found is not None
    assert found.value == pytest.approx(0.6, abs=1e-9)


def test_one_length_difference_for_all_prompts_cannot_be_told_from_quality() -> None:
    assert length_controlled(np.array([0.6, 0.7]), np.array([5.0, 5.0]), Bootstrap(10)) is None


def test_who_always_wins_keeps_a_finite_rate() -> None:
    found = length_controlled(np.ones(50), np.tile([3.0, -3.0], 25), Bootstrap(50))
    assert found is not None
    assert 0.98 < found.value < 1


def test_the_regression_is_where_its_slope_vanishes() -> None:
    rng = np.random.default_rng(0)
    p, x, weights = rng.random(30), rng.normal(size=30), rng.multinomial(30, [1 / 30] * 30, size=4).astype(float)
    found = regression(p, x, weights, ridge=0.1)
    residual = weights * (1 / (1 + np.exp(-(found[:, :1] + found[:, 1:] * x))) - p)
    slope = np.stack([residual.sum(axis=1), residual @ x], axis=1) + 0.1 * found
    assert np.abs(slope).max() < 1e-8


A_B_C = np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]])
"""A beats B beats C beats A."""


def test_rock_paper_scissors_is_a_cycle_without_a_condorcet_winner() -> None:
    found = tournament(A_B_C)
    assert (found.cycle, found.condorcet_winner, found.unbeaten) == (True, False, False)


def test_a_winner_above_a_cycle_is_a_condorcet_winner() -> None:
    p = np.full((4, 4), 0.9)
    p[1:, 1:] = A_B_C
    p[1:, 0] = 0.1
    found = tournament(p)
    assert (found.cycle, found.condorcet_winner, found.unbeaten) == (True, True, True)


def test_an_order_has_no_cycle() -> None:
    scores = np.array([3.0, 1.0, 2.0])
    found = tournament((1 + np.sign(scores[:, None] - scores)) / 2)
    assert (found.cycle, found.condorcet_winner) == (False, True)


def test_two_that_tie_at_the_top_are_unbeaten_and_no_condorcet_winner() -> None:
    scores = np.array([2.0, 2.0, 1.0])
    found = tournament((1 + np.sign(scores[:, None] - scores)) / 2)
    assert (found.cycle, found.condorcet_winner, found.unbeaten) == (False, False, True)


def test_with_ties_a_cycle_of_four_needs_none_of_three() -> None:
    """0 beats 1 beats 2 beats 3 beats 0; 0 and 2 tie, and so do 1 and 3."""
    beats = np.zeros((4, 4), dtype=bool)
    beats[[0, 1, 2, 3], [1, 2, 3, 0]] = True
    assert has_cycle(beats)
    beats[3, 0] = False
    assert not has_cycle(beats)


def test_one_answer_is_its_own_condorcet_winner() -> None:
    found = tournament(np.array([[0.5]]))
    assert (found.answers, found.cycle, found.condorcet_winner) == (1, False, True)


def test_an_edit_counts_words_inserted_and_deleted() -> None:
    """ "a b c" to "a c d": b goes, d comes, of 3 + 3 words: 2/6."""
    found = edit("a b c", "a c d")
    assert (found.unchanged, found.switched) == (False, False)
    assert found.ratio == pytest.approx(1 / 3)
    assert edit("a b", " a b\n").unchanged


ENGLISH = "The cat is in the house and it is not for you."
GERMAN = "Die Katze ist nicht im Haus und das ist auch gut für die Maus."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ENGLISH, "en"),
        (GERMAN, "de"),
        ("Le chat est dans la maison et les souris sont avec des amis.", "fr"),
        ("Кошка сидит в доме и смотрит в окно на улицу.", "CYRILLIC"),
        ("这只猫在家里看着窗外的街道和行人，它不想出去散步了，今天天气很冷。", "HAN"),
        ("42 + 17 = 59", None),
        ("print(sorted(numbers)) reversed lambda", None),
    ],
)
def test_languages_are_told_by_script_and_by_common_words(text: str, expected: str | None) -> None:
    assert language(text) == expected


def test_a_switch_needs_two_languages_that_can_be_told() -> None:
    assert edit(ENGLISH, GERMAN).switched
    assert not edit(ENGLISH, "42 + 17 = 59").switched


EIGHT = "so it goes round and round and again "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (EIGHT * 3, True),
        (f"Well. {EIGHT * 4} And", True),
        (EIGHT * 2, False),
        ("ha " * 24, True),
        ("ha " * 23, False),
        (" ".join(f"{n}. A line of a list." for n in range(50)), False),
        ("The same start. " * 2 + ENGLISH, False),
        ("", False),
    ],
)
def test_a_loop_is_the_same_words_three_times_in_a_row(text: str, expected: bool) -> None:
    assert loops(text) is expected


def test_numbers_stay_finite() -> None:
    assert math.isfinite(regression(np.ones(3), np.ones(3), np.ones((1, 3)))[0, 0])
