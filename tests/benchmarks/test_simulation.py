"""The simulation of clusters against results of queueing theory that are known exactly."""

import pytest

from benchmarks.simulation import Cluster, Costs, Work, capacity, places, simulate

ENDLESS = 10**9
SHARED = Costs(steps=((1, 0.01), (2, 0.02)), prefill_s=0.0, kv_tokens=ENDLESS)
"""One processor that all share: n tokens take n times as long as one."""
PARALLEL = Costs(steps=((1, 0.01), (2, 0.01)), prefill_s=0.0, kv_tokens=ENDLESS)
"""A token takes as long whatever else is at work."""
ONE_ROUND = Work(prompt=10, answer=100, rounds=0)  # 1 s alone


def test_steps_between_and_beyond_the_measured_sizes_lie_on_lines() -> None:
    costs = Costs(steps=((1, 1.0), (3, 2.0), (5, 6.0)), prefill_s=0.0, kv_tokens=1)
    assert [costs.step_s(n) for n in (1, 2, 3, 4, 5, 7)] == [1.0, 1.5, 2.0, 4.0, 6.0, 10.0]


def test_capacity_by_hand() -> None:
    """8 places, 2 rounds of 50 tokens, 0.02 s a step; reading 8 x (10 + 32) tokens of 1 ms adds 336 ms over 100."""
    costs = Costs(steps=((1, 0.02), (2, 0.02)), prefill_s=0.001, kv_tokens=ENDLESS)
    work = Work(prompt=10, answer=50, rounds=1)
    formula = 3 * 8 / (100 * (0.02 + 0.00336))
    assert capacity(costs, work, Cluster(replicas=3, running=8, waiting=0)) == pytest.approx(formula)
    assert capacity(costs, work, Cluster(3, 8, 0, router_s=0.5)) == 2


def test_the_cache_limits_how_many_are_at_work() -> None:
    """The last round holds 100 + 32 + 2 x 50 tokens."""
    costs = Costs(steps=((1, 0.01), (2, 0.01)), prefill_s=0.0, kv_tokens=1000)
    assert places(costs, Work(prompt=100, answer=50, rounds=2), running=64) == 4
    with pytest.raises(ValueError, match="does not fit into 1000 tokens"):
        simulate(costs, Work(prompt=1000, answer=50, rounds=2), Cluster(1, 64, 0), rate=1, requests=10)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_shared_processor_has_the_mean_of_theory(share: float) -> None:
    """M/M/1 processor sharing has rho / (1 - rho) at work on average, and refuses nobody."""
    outcome = simulate(SHARED, ONE_ROUND, Cluster(1, running=10_000, waiting=0), rate=share, requests=100_000)
    assert outcome.refused == 0
    # Arrivals see the mean (PASTA), and count themselves.
    assert outcome.kv_share * ENDLESS / ONE_ROUND.held == pytest.approx(1 / (1 - share), rel=0.08)
    assert outcome.per_s == pytest.approx(share, rel=0.03)


def test_one_place_and_no_queue_refuse_what_erlang_says() -> None:
    """M/M/c/c with c = 4 places and a load of 4: the Erlang B formula gives 0.3107."""
    outcome = simulate(PARALLEL, ONE_ROUND, Cluster(1, running=4, waiting=0), rate=4, requests=50_000)
    assert outcome.refused / (outcome.refused + outcome.finished) == pytest.approx(0.3107, abs=0.01)


def test_nothing_is_lost() -> None:
    cluster = Cluster(10, running=4, waiting=4, policy="two choices")
    outcome = simulate(PARALLEL, ONE_ROUND, cluster, rate=60, requests=5_000)
    assert outcome.refused > 0
    assert outcome.finished + outcome.refused == pytest.approx(5_000 * 2 / 3, abs=1)


def test_a_router_that_looks_is_better_than_one_that_does_not() -> None:
    slow = {
        policy: simulate(SHARED, ONE_ROUND, Cluster(50, 1000, 0, policy), rate=45, requests=20_000).p95_s
        for policy in ("random", "two choices", "least")
    }
    assert slow["least"] < slow["two choices"] < slow["random"]


def test_a_slow_router_is_the_limit() -> None:
    outcome = simulate(PARALLEL, ONE_ROUND, Cluster(100, 64, 0, router_s=0.01), rate=200, requests=5_000)
    assert outcome.router_share == 1
    assert outcome.per_s == pytest.approx(100, rel=0.05)
