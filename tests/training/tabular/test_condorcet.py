"""The exact numbers of the Condorcet example, and the command that prints them."""

import json
from pathlib import Path

import numpy as np
import pytest

from slhf_training.cli import main
from slhf_training.tabular.condorcet import by_refinement, by_samples
from slhf_training.tabular.games import (
    CONDORCET,
    best_response,
    bradley_terry,
    condorcet_winner,
    cyclic_triples,
    has_cycle,
    mirror_step,
    nlhf,
    of_annotators,
    pairs_drawn_from,
    random_cyclic,
    rlhf,
    total_variation,
)

UNIFORM = np.full(3, 1 / 3)
EQUAL = of_annotators(CONDORCET, UNIFORM)
UNEQUAL = of_annotators(CONDORCET, (0.4, 0.35, 0.25))
ORDERED = np.array([[0.5, 0.9, 0.8], [0.1, 0.5, 0.7], [0.2, 0.3, 0.5]])


def test_annotators_in_unequal_shares_make_the_matrix_worked_out_by_hand() -> None:
    """A beats B for types 1 and 3: .4 + .25; A beats C for type 1; B beats C for types 1 and 2: .4 + .35."""
    assert UNEQUAL == pytest.approx(np.array([[0.5, 0.65, 0.4], [0.35, 0.5, 0.75], [0.6, 0.25, 0.5]]))


def test_nash_is_uniform_and_its_samples_reach_a_favourite_with_1_3_then_5_9_then_19_27() -> None:
    policy = nlhf(EQUAL, 0)
    assert policy == pytest.approx(UNIFORM)
    for favourite in range(3):
        assert by_samples(policy, favourite, 3) == pytest.approx([1 / 3, 5 / 9, 19 / 27])


def test_refinement_reaches_a_favourite_with_1_3_then_2_3_then_surely() -> None:
    follower = best_response(-EQUAL, 0, UNIFORM)
    for favourite in range(3):
        assert by_refinement(UNIFORM, follower, favourite, 3) == pytest.approx([1 / 3, 2 / 3, 1])


@pytest.mark.parametrize("first", [0, 1, 2])
def test_whatever_the_leader_says_first_every_user_is_served_in_three_rounds(first: int) -> None:
    follower, leader = best_response(-EQUAL, 0, UNIFORM), np.eye(3)[first]
    reached = np.array([by_refinement(leader, follower, favourite, 3) for favourite in range(3)])
    assert reached[:, 2] == pytest.approx([1, 1, 1])
    assert reached.mean(axis=0) == pytest.approx([1 / 3, 2 / 3, 1])


def test_nash_of_unequal_shares() -> None:
    """By hand at tau = 0: proportional to the opposite edges' margins .25 (B, C), .10 (C, A), .15 (A, B)."""
    assert nlhf(UNEQUAL, 0) == pytest.approx([0.5, 0.2, 0.3], abs=1e-6)
    assert nlhf(UNEQUAL, 1e-3) == pytest.approx([0.501, 0.201, 0.298], abs=5e-4)


def test_nash_is_its_own_regularised_best_response() -> None:
    policy = nlhf(UNEQUAL, 0.1)
    assert best_response(UNEQUAL @ policy, 0.1, UNIFORM) == pytest.approx(policy, abs=1e-9)


def test_plain_ascent_runs_away_from_nash_where_extragradient_settles() -> None:
    goal = np.array([0.5, 0.2, 0.3])
    policy = UNIFORM
    for _ in range(2000):
        policy = mirror_step(policy, UNEQUAL @ policy, 0, UNIFORM, 1.0)
    assert total_variation(policy, goal) > total_variation(UNIFORM, goal)


def test_rlhf_depends_on_which_pairs_were_sampled() -> None:
    """Uniform data rank by wins: B 1.10, A 1.05, C .85; drawn from (.6, .3, .1), A against B is most of the data."""
    skewed = pairs_drawn_from(np.array([0.6, 0.3, 0.1]))
    assert rlhf(UNEQUAL, pairs_drawn_from(UNIFORM), 1e-3) == pytest.approx([0, 1, 0], abs=1e-9)
    assert rlhf(UNEQUAL, skewed, 1e-3) == pytest.approx([1, 0, 0], abs=1e-9)


def test_bradley_terry_finds_the_rewards_that_made_the_data() -> None:
    reward = np.array([1.0, 0.0, -1.0])
    wins = 1 / (1 + np.exp(reward - reward[:, None]))  # [y, y']: sigmoid(r(y) - r(y'))
    assert bradley_terry(wins) == pytest.approx(reward, abs=1e-9)


def test_an_answer_that_never_lost_has_no_bradley_terry_reward() -> None:
    with pytest.raises(ValueError, match="never lost"):
        bradley_terry(np.array([[0.0, 3.0], [0.0, 0.0]]))


def test_a_best_response_never_gives_less_to_an_answer_that_pays_more() -> None:
    rng = np.random.default_rng(0)
    for tau in (0, 0.05, 1.0):
        payoff = rng.uniform(0, 1, 5)
        raised = payoff + np.array([0, 0, 0.3, 0, 0])
        reference = rng.dirichlet(np.ones(5))
        assert best_response(raised, tau, reference)[2] >= best_response(payoff, tau, reference)[2]


def test_cycles_and_condorcet_winners_are_told_apart() -> None:
    assert (condorcet_winner(UNEQUAL), has_cycle(UNEQUAL), cyclic_triples(UNEQUAL)) == (None, True, 1.0)
    assert (condorcet_winner(ORDERED), has_cycle(ORDERED), cyclic_triples(ORDERED)) == (0, False, 0.0)
    ties = np.full((3, 3), 0.5)
    assert (condorcet_winner(ties), has_cycle(ties)) == (None, False)


def test_a_random_cyclic_game_has_a_cycle_and_no_condorcet_winner() -> None:
    for seed in range(20):
        game = random_cyclic(3 + seed % 4, np.random.default_rng(seed))
        assert has_cycle(game)
        assert condorcet_winner(game) is None
        assert game + game.T == pytest.approx(np.ones_like(game))


def test_the_command_prints_numbers_and_draws_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["games", "--json", "--plot", str(tmp_path / "games.png")]) == 0
    game = json.loads(capsys.readouterr().out)["games"][0]
    assert game["reached"]["slhf"][:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert game["reached"]["nlhf"][:3] == pytest.approx([1 / 3, 5 / 9, 19 / 27])
    assert (tmp_path / "games.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["games", "--plot", str(tmp_path / "missing" / "games.png")]) == 1
    assert "--plot" in capsys.readouterr().err
