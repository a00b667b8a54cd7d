"""Stop rules on written rounds: what each returns, how far it runs, whom it asks; and how a threshold is chosen."""

from itertools import product
from random import Random

import numpy as np
import pytest

from slhf_server.models.fake import FakeEngine
from slhf_server.refinement import stops
from slhf_server.refinement.job import Judging
from slhf_training.evaluation.trajectories import (
    MARGIN,
    NamedRule,
    Outcome,
    Trajectory,
    chosen,
    judge_sure,
    last,
    no_gain,
    rules,
    select,
    small_edit,
    unchanged,
)
from tests.server.refinement.fake_judge import FakeJudge
from tests.server.refinement.test_refinement import QUESTION, outcome

NAN = float("nan")


def trajectory(
    texts: str, p: dict[tuple[int, int], float] | None = None, right: str = "", held_out: float = NAN
) -> Trajectory:
    """Texts are separated by "|". `right`: a digit for each. `held_out`: the measuring judge's p of every pair."""
    written = tuple(texts.split("|"))
    judged = np.full((len(written), len(written)), NAN)
    for pair, value in (p or {}).items():
        judged[pair] = value
    checked = np.array([float(mark) for mark in right] or [NAN] * len(written))
    return Trajectory(written, judged, checked, np.full((len(written), len(written)), held_out))


WORDS = "a b c d e f g h i j"
ONE_WORD = f"{WORDS}|{WORDS} k|{WORDS} k l m n o p|{WORDS} k l m n o p"
"""Edits of 1 word in 21, of 5 in 27, and of none."""


def test_rules_that_ask_nobody_end_at_the_first_round_that_meets_them() -> None:
    written = trajectory(ONE_WORD)
    assert last(written, 2) == Outcome(2, 2)
    assert unchanged(written) == Outcome(3, 3)
    assert small_edit(written, 0.04) == Outcome(3, 3)
    assert small_edit(written, 1 / 21) == Outcome(1, 1)
    assert unchanged(trajectory("a|a|b")) == Outcome(1, 1)


def test_no_gain_returns_the_text_before_the_round_that_won_nothing() -> None:
    assert no_gain(trajectory("a|b|c|d", {(1, 0): 0.9, (2, 1): 0.5})) == Outcome(1, 2, ((1, 0), (2, 1)))
    assert no_gain(trajectory("a|b", {(1, 0): 0.55})) == Outcome(0, 1, ((1, 0),))
    assert no_gain(trajectory("a|b", {(1, 0): 0.6})) == Outcome(1, 1, ((1, 0),))


def test_a_judge_that_abstains_gives_nothing_a_win() -> None:
    silent = trajectory("a|b|c")
    assert no_gain(silent).returned == 0
    assert select(silent, 0.5).returned == 0
    assert judge_sure(silent, 0.6) == Outcome(2, 2, ((1, 0),))


def test_judge_sure_ends_with_the_round_that_beats_the_best_before_it_by_far() -> None:
    """Round 1 is the best from .6 on; .8 against it is sure. Of the last round nobody is asked: it ends in any case."""
    written = trajectory("a|b|c|d", {(1, 0): 0.7, (2, 1): 0.8, (2, 0): 0.5, (3, 1): 0.99, (3, 2): 0.99})
    assert judge_sure(written, 0.8) == Outcome(2, 2, ((1, 0), (2, 1)))
    assert judge_sure(written, 0.7) == Outcome(1, 1, ((1, 0),))
    assert judge_sure(written, 0.9) == Outcome(3, 3, ((1, 0), (2, 1)))
    assert judge_sure(trajectory("a|b", {(1, 0): 0.99}), 0.6) == Outcome(1, 1)


def test_select_keeps_the_best_so_far_and_the_draft_is_one_of_them() -> None:
    """Round 1 beats the draft, round 2 does not beat round 1, round 3 is compared with round 1."""
    p = {(1, 0): 0.7, (2, 1): 0.65, (3, 1): 0.75, (3, 2): 0.1, (2, 0): 0.2, (3, 0): 0.2}
    written = trajectory("a|b|c|d", p)
    assert select(written, 0.7) == Outcome(3, 3, ((1, 0), (2, 1), (3, 1)))
    assert select(written, 0.72).returned == 0
    assert select(written, 0.6) == Outcome(2, 3, ((1, 0), (2, 1), (3, 2)))


def test_of_the_same_text_nobody_is_asked() -> None:
    assert select(trajectory("a|a|a", {(1, 0): 0.5, (2, 0): 0.5}), 0.5) == Outcome(0, 2)
    assert no_gain(trajectory("a|a", {(1, 0): 0.5})) == Outcome(0, 1)


def test_of_a_text_that_was_judged_nobody_is_asked_again() -> None:
    """A judge that answers otherwise the second time is not heard."""
    written = trajectory("a|b|b|c", {(1, 0): 0.5, (2, 0): 0.9, (3, 0): 0.5})
    assert select(written, 0.6) == Outcome(0, 3, ((1, 0), (3, 0)))
    assert judge_sure(written, 0.8) == Outcome(3, 3, ((1, 0),))


def test_a_round_is_useful_where_its_text_is_better_than_all_before() -> None:
    assert trajectory("a|b|c|d", right="0101").useful() == [1]
    assert trajectory("a|b|c|d", right="1010").useful() == []
    assert trajectory("a|b|c", held_out=0.6).useful() == [1, 2]
    assert trajectory("a|b|c", held_out=0.59).useful() == []
    assert trajectory("a|b|c").useful() == []


def test_the_most_drastic_threshold_that_loses_few_useful_rounds_is_chosen() -> None:
    """Round 1 changes 1 of 21 words in one trajectory, 3 of 11 in another; in both round 2 is the useful one. Of 39
    useful rounds one is lost at .05 and two at .3: (1 + 1) / 40 is .05, and (2 + 1) / 40 is more. Of 38, one is."""
    kept = [trajectory("a|b", right="01")] * 37
    two = [trajectory(f"{WORDS}|{WORDS} k|x", right="001"), trajectory("a b c d|a b c d e f g|x", right="001")]
    ratios = [one for one in rules(2, (0.3, 0.02, 0.05), (), ()) if one.name == "small_edit"]
    assert chosen(ratios, [*kept, *two], 0.05) == 0.05
    assert chosen(ratios, [*kept[1:], *two], 0.05) == 0.02
    assert chosen(ratios, [*kept, *two], 0.08) == 0.3


def test_too_few_useful_rounds_choose_nothing() -> None:
    """Nothing is lost, but 1 of 19 is .0526; 1 of 20 is .05."""
    harmless = [NamedRule("small_edit", 0.1, lambda written: Outcome(written.rounds, written.rounds))]
    assert chosen(harmless, [trajectory("a|b", right="01")] * 18, 0.05) is None
    assert chosen(harmless, [trajectory("a|b", right="01")] * 19, 0.05) == 0.1


@pytest.mark.parametrize("name", ["judge_sure", "select", "small_edit"])
def test_thresholds_are_tried_from_the_one_that_loses_least(name: str) -> None:
    values = [one.value for one in rules(2, (0.1, 0.05), (0.7, 0.9), (0.8, 0.6)) if one.name == name]
    assert values == {"judge_sure": [0.9, 0.7], "select": [0.6, 0.8], "small_edit": [0.05, 0.1]}[name]


TEXTS = ("a b c d e f g h", "a b c d e f g h i", "x y", "a b c d e f g i")
"""Few, so that rounds repeat each other, and at different distances."""


@pytest.mark.parametrize(
    "rule", rules(3, (0.1, 0.2), (0.7, 0.9), (0.6, 0.8)), ids=lambda one: f"{one.name}-{one.value}"
)
def test_the_servers_loop_would_have_done_what_a_rule_says(rule: NamedRule) -> None:
    """Random rounds and verdicts: the same text returned, as many rounds, the same questions to the judge."""
    for seed in range(20):
        chance = Random(seed)
        texts = [chance.choice(TEXTS) for _ in range(4)]
        says = {pair: chance.choice([None, 0.3, 0.6, 0.75, 0.9]) for pair in product(TEXTS, TEXTS)}  # (old, new)
        pairs = [(new, old) for new in range(1, 4) for old in range(new)]
        p = {(new, old): NAN if (one := says[texts[old], texts[new]]) is None else one for new, old in pairs}
        due = rule.rule(trajectory("|".join(texts), p))
        left = iter(texts[1:])
        judge = FakeJudge(lambda old, new: says[old, new])  # noqa: B023  it is asked within this turn
        selects = rule.name in ("select", "no_gain")
        margin = rule.value if rule.name == "select" and rule.value is not None else MARGIN
        asks = selects or rule.name == "judge_sure"
        found = outcome(
            FakeEngine(lambda turns: next(left)),  # noqa: B023
            draft=texts[0],
            rounds=int(rule.value or 0) if rule.name == "last" else 3,
            judging=Judging(judge, QUESTION, margin, selects) if asks else None,
            stops=stops.rules_of([rule.name], stops.Thresholds(rule.value, rule.value)),  # type: ignore[list-item]
        )
        assert (found.refinement.returned_round, found.refinement.rounds_run) == (due.returned, due.rounds), texts
        assert judge.asked == [(texts[old], texts[new]) for new, old in due.asked]
