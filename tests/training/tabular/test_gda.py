"""StackelbergGDA (Algorithm 1) against the closed form of the cyclic game with shares (.4, .35, .25)."""

from itertools import islice

import numpy as np
import pytest

from slhf_training.tabular.condorcet import distance
from slhf_training.tabular.games import CONDORCET, Array, best_response, of_annotators, random_cyclic
from slhf_training.tabular.stackelberg import Form, PolicyTables, averages, equilibrium, stackelberg_gda

GAME = of_annotators(CONDORCET, (0.4, 0.35, 0.25))
TAU = 0.1


def final(preference: Array, form: Form, kappa: float, start: PolicyTables | None = None) -> PolicyTables:
    *_, last = islice(stackelberg_gda(preference, TAU, TAU, form=form, kappa=kappa, start=start), 3000)
    return last


@pytest.mark.parametrize("kappa", [0.2, 1, 5, 25, 1000])
def test_the_mirror_form_converges_for_every_kappa(kappa: float) -> None:
    assert distance(final(GAME, "mirror", kappa), equilibrium(GAME, TAU, TAU)) < 1e-3


def test_the_projected_form_converges_with_kappa_5() -> None:
    assert distance(final(GAME, "projected", 5), equilibrium(GAME, TAU, TAU)) < 1e-9


@pytest.mark.parametrize("form", ["projected", "mirror"])
def test_the_average_converges_more_slowly_than_the_last_iterate(form: Form) -> None:
    iterates = stackelberg_gda(GAME, TAU, TAU, form=form)
    *_, average = islice(averages(iterates), 3000)
    assert 1e-6 < distance(average, equilibrium(GAME, TAU, TAU)) < 0.01


@pytest.mark.parametrize("form", ["projected", "mirror"])
def test_every_start_leads_to_the_one_equilibrium(form: Form) -> None:
    rng, goal = np.random.default_rng(0), equilibrium(GAME, TAU, TAU)
    for _ in range(8):
        start = PolicyTables(rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(3), size=3))
        assert distance(final(GAME, form, 5, start), goal) < 1e-6


def test_random_cyclic_games_are_solved_too() -> None:
    rng = np.random.default_rng(1)
    for n in (3, 4, 7):
        game = random_cyclic(n, rng)
        assert distance(final(game, "mirror", 5), equilibrium(game, TAU, TAU)) < 1e-6


@pytest.mark.parametrize("form", ["projected", "mirror"])
def test_without_regularisation_the_follower_moves_to_its_best_response_and_never_back(form: Form) -> None:
    best = best_response(-GAME, 0, np.full(3, 1 / 3)) > 0.5  # (3, 3): one answer in each row
    iterates = islice(stackelberg_gda(GAME, 0, 0, form=form), 500)
    chosen = np.array([policies.follower[best] for policies in iterates])  # (500, 3)
    assert (np.diff(chosen, axis=0) >= -1e-12).all()
    assert (chosen[-1] > chosen[0]).all()
