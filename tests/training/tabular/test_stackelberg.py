"""The closed-form equilibrium against numbers that are known or follow by hand."""

import numpy as np
import pytest

from slhf_training import equilibrium
from slhf_training.tabular.games import Array


def cycle(a: float, b: float, c: float) -> Array:
    """Three annotator types in shares a, b, c who rank A>B>C, B>C>A and C>A>B: their majority is a cycle.

    P[A, B] = a + c (types 1 and 3 prefer A to B), P[B, C] = a + b, P[C, A] = b + c; ties are 1/2.
    """
    return np.array([[0.5, a + c, a], [b, 0.5, a + b], [b + c, c, 0.5]])


def test_the_leader_takes_the_largest_share_as_regularisation_vanishes() -> None:
    """By hand: against a best-replying Follower A is worth P[A, C] = a, B is worth b, C is worth c."""
    found = equilibrium(cycle(0.4, 0.35, 0.25), tau_leader=1e-3, tau_follower=1e-3)
    assert found.value == pytest.approx([0.401, 0.351, 0.251], abs=2e-4)  # + tau_F log 3
    assert found.leader == pytest.approx([1, 0, 0], abs=1e-9)


def test_the_unregularised_follower_walks_the_cycle() -> None:
    found = equilibrium(cycle(1 / 3, 1 / 3, 1 / 3), tau_leader=1.0, tau_follower=1e-3)
    assert found.follower == pytest.approx(np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]]), abs=1e-9)
    assert found.leader == pytest.approx([1 / 3] * 3)


def test_strong_regularisation_stays_at_the_references() -> None:
    leader, follower = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, 0.7])
    found = equilibrium(cycle(0.4, 0.35, 0.25), 1e6, 1e6, leader, follower)
    assert found.leader == pytest.approx(leader, abs=1e-5)
    assert found.follower == pytest.approx(np.tile(follower, (3, 1)), abs=1e-5)


def test_no_other_policies_do_better_for_themselves() -> None:
    """The definition itself: omega* minimises the objective for pi*, and pi* maximises it against omega*."""
    preference, tau_l, tau_f = cycle(0.4, 0.35, 0.25), 0.2, 0.3
    found = equilibrium(preference, tau_l, tau_f)

    def objective(pi: Array, omega: Array) -> float:
        kl_f = (omega * np.log(omega * 3)).sum(axis=1)
        return float(pi @ ((preference * omega).sum(axis=1) + tau_f * kl_f) - tau_l * (pi * np.log(pi * 3)).sum())

    best = objective(found.leader, found.follower)
    rng = np.random.default_rng(0)
    for _ in range(200):
        assert objective(found.leader, rng.dirichlet(np.ones(3), size=3)) >= best - 1e-12
        assert objective(rng.dirichlet(np.ones(3)), found.follower) <= best + 1e-12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau_follower": 0.0}, "positive"),
        ({"preference": np.full((3, 3), 1.5)}, "probabilities"),
        ({"leader_reference": np.array([1.0, 0.0, 0.0])}, "add up to 1"),
    ],
)
def test_what_has_no_unique_solution_is_refused(change: dict[str, object], message: str) -> None:
    arguments = {"preference": cycle(0.4, 0.35, 0.25), "tau_leader": 1.0, "tau_follower": 1.0} | change
    with pytest.raises(ValueError, match=message):
        equilibrium(**arguments)  # type: ignore[arg-type]
