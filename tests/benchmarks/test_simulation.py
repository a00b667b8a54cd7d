"""The formula by hand, and the simulation of a replica against results of queueing theory that are known exactly."""

import json
import statistics
from pathlib import Path

import pytest

from benchmarks.scaling import tables
from benchmarks.simulation import Costs, Work, capacity, places, simulate

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
    assert capacity(costs, work, running=8) == pytest.approx(8 / (100 * (0.02 + 0.00336)))


def test_the_cache_limits_how_many_are_at_work() -> None:
    """The last round holds 100 + 32 + 2 x 50 tokens."""
    costs = Costs(steps=((1, 0.01), (2, 0.01)), prefill_s=0.0, kv_tokens=1000)
    assert places(costs, Work(prompt=100, answer=50, rounds=2), running=64) == 4
    with pytest.raises(ValueError, match="does not fit into 1000 tokens"):
        simulate(costs, Work(prompt=1000, answer=50, rounds=2), (64, 0), rate=1, requests=10)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_shared_processor_has_the_mean_of_theory(share: float) -> None:
    """In M/M/1 processor sharing a job of 1 s takes 1 / (1 - rho) seconds on average, and nobody is refused."""
    latencies, refused = simulate(SHARED, ONE_ROUND, (10_000, 0), rate=share, requests=100_000)
    assert refused == 0
    assert statistics.mean(latencies) == pytest.approx(1 / (1 - share), rel=0.08)


def test_a_queue_before_one_place_has_the_mean_of_theory() -> None:
    """In M/M/1 first come, first served the mean is 1 / (1 - rho) seconds too."""
    latencies, refused = simulate(PARALLEL, ONE_ROUND, (1, 10_000), rate=0.8, requests=100_000)
    assert refused == 0
    assert statistics.mean(latencies) == pytest.approx(5, rel=0.08)


def test_places_and_no_queue_refuse_what_erlang_says() -> None:
    """M/M/c/c with c = 4 places and a load of 4: the Erlang B formula gives 0.3107."""
    _, refused = simulate(PARALLEL, ONE_ROUND, (4, 0), rate=4, requests=50_000)
    assert refused == pytest.approx(0.3107, abs=0.01)


def test_an_overloaded_replica_gets_through_what_the_formula_says() -> None:
    costs = Costs(steps=((1, 0.01), (2, 0.012), (8, 0.02)), prefill_s=0.0002, kv_tokens=ENDLESS)
    work = Work(prompt=50, answer=64, rounds=2)
    _, refused = simulate(costs, work, (8, 16), rate=1.5 * capacity(costs, work, 8), requests=30_000)
    assert 1.5 * (1 - refused) == pytest.approx(1, rel=0.02)


def test_the_page_shows_the_recorded_figures() -> None:
    root = Path(__file__).parents[2]
    figures = json.loads((root / "benchmarks/scaling.json").read_text(encoding="utf-8"))
    assert tables(figures) in (root / "docs/scaling.md").read_text(encoding="utf-8")
