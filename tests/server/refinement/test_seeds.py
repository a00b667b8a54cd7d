"""Seeds: one for each choice and round, out of the request's one; the contract gives the formula (docs/api.md)."""

import asyncio
import re
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slhf.history import Message
from slhf.wire import RefineOptions
from slhf_server.models.base import SamplingParams
from slhf_server.models.fake import FakeEngine
from slhf_server.refinement.loop import refine
from slhf_server.refinement.planner import Planner, RefineParams
from slhf_server.refinement.seeds import seed_of
from slhf_server.settings.server import Settings
from tests.conftest import Serve

INT64 = st.integers(-(2**63), 2**63 - 1)
CHAT = [{"role": "user", "content": "what is it"}]
API = Path(__file__).resolve().parents[3] / "docs" / "api.md"


@given(INT64, st.integers(0, 10_000), st.integers(0, 10_000))
def test_every_seed_fits_into_63_bits(seed: int, choice: int, number: int) -> None:
    drawn = seed_of(seed, choice, number)
    assert drawn is None if seed == -1 else drawn is not None and 0 <= drawn < 2**63


@given(INT64.filter(lambda seed: seed != -1), st.integers(0, 100), st.integers(0, 100))
def test_neighbours_share_no_seed(seed: int, choice: int, number: int) -> None:
    """Neither rounds nor choices nor the same request with the next seed: adding numbers up would make them meet."""
    near = [seed_of(seed + a, choice + b, number + c) for a in (0, 1) for b in (0, 1) for c in (0, 1) if seed + a != -1]
    assert len(set(near)) == len(near)


@pytest.mark.parametrize("none", [None, -1])
def test_no_seed_stays_none(none: int | None) -> None:
    assert {seed_of(none, choice, number) for choice in range(3) for number in range(3)} == {None}


def test_the_contracts_example_is_what_the_server_draws() -> None:
    contract = " ".join(API.read_text(encoding="utf-8").split())
    pattern = r"`(\d+):(\d+):(\d+)`, whose SHA-256 begins with `([0-9a-f]{16})`: the seed is `(\d+)`"
    example = re.search(pattern, contract)
    assert example is not None
    seed, choice, number, digest, drawn = example.groups()
    assert int(drawn) == int(digest, 16) // 2 == seed_of(int(seed), int(choice), int(number))


def played(
    sampling: SamplingParams, *, choices: int = 1, draft: str | None = None, rounds: int = 2
) -> list[int | None]:
    """The seeds of a request's completions, choice by choice."""
    engine = FakeEngine()
    options = RefineOptions(rounds=rounds, draft=draft)
    messages = [Message.model_validate(message) for message in CHAT]

    async def run() -> list[int | None]:
        seeds: list[int | None] = []
        for job in Planner(Settings(), {"engine": engine}, {}).plan(
            RefineParams("chat", "x", None, messages, options, sampling, "none", choices)
        ):
            calls = engine.leader.calls, engine.follower.calls
            before = [len(one) for one in calls]
            assert [step async for step in refine(job)]
            seeds += [s.seed for one, seen in zip(calls, before, strict=True) for _, s in one[seen:]]
        return seeds

    return asyncio.run(run())


@pytest.mark.parametrize("seed", [0, 5, 2**63 - 1, -(2**63), -2])
def test_each_round_of_each_choice_samples_with_its_own_seed(seed: int) -> None:
    seeds = played(SamplingParams(seed=seed), choices=3)
    assert seeds == [seed_of(seed, choice, number) for choice in range(3) for number in range(3)]
    assert len(set(seeds)) == 9


def test_a_draft_takes_the_place_of_round_zero() -> None:
    assert played(SamplingParams(seed=5), draft="mine") == [seed_of(5, 0, 1), seed_of(5, 0, 2)]


@pytest.mark.parametrize("seed", [None, -1])
def test_without_a_seed_the_engine_draws_its_own(seed: int | None) -> None:
    assert played(SamplingParams(seed=seed), choices=2) == [None] * 6


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63)])
def test_every_endpoint_that_takes_a_seed_takes_any_and_draws_from_it(serve: Serve, path: str, seed: int) -> None:
    engine = FakeEngine()
    asked = {"messages": CHAT} if path.startswith("chat") else {"prompt": "what is it"}
    answer = httpx2.post(f"{serve(engine)}/v1/{path}", json=asked | {"seed": seed, "n": 2, "refine": {"rounds": 2}})
    assert answer.status_code == 200
    seeds = [sampling.seed for model in (engine.leader, engine.follower) for _, sampling in model.calls]
    expected = [seed_of(seed, choice, number) for choice in range(2) for number in range(3)]
    assert sorted(map(str, seeds)) == sorted(map(str, expected))


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63)])
def test_refine_draws_each_round_from_its_seed(serve: Serve, seed: int) -> None:
    engine = FakeEngine()
    answer = httpx2.post(f"{serve(engine)}/v1/refine", json={"prompt": "what is it", "seed": seed, "rounds": 2})
    assert answer.status_code == 200
    seeds = [sampling.seed for model in (engine.leader, engine.follower) for _, sampling in model.calls]
    assert seeds == [seed_of(seed, 0, number) for number in range(3)]


@pytest.mark.parametrize("path", ["chat/completions", "refine"])
@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 1.5, "1", True])
def test_a_seed_that_is_no_64_bit_integer_is_refused_by_name(serve: Serve, seed: object, path: str) -> None:
    answer = httpx2.post(f"{serve()}/v1/{path}", json={"messages": CHAT, "seed": seed})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "seed")
