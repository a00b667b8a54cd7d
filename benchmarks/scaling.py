"""How many replicas a load needs: costs measured on the real server, a formula and a simulation fed with them.

    python -m benchmarks.scaling                measure, check the simulation against the server, and simulate clusters
    python -m benchmarks.scaling --simulate     only simulate, with the costs of benchmarks/scaling.json

Measured on the built-in model, refinements with 2 rounds of 64 tokens each:

    costs       seconds of a decode step by how many refinements are at work, and of a prompt token
    check       Poisson arrivals on the server, p50 and p95 of their latency beside those that the simulation gives

The simulation (benchmarks/simulation.py) then plays clusters of 1 to 4,000 such replicas (some minutes). Writes
benchmarks/scaling.json and the tables of docs/scaling.md.
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.prompts import SENTENCES
from benchmarks.report import occasion, write
from benchmarks.simulation import Cluster, Costs, Policy, Work, capacity, places, simulate
from benchmarks.systems import ours

SIZES = (1, 2, 4, 8, 16, 32, 64)
WORK = Work(prompt=50, answer=64, rounds=2)
POLICIES: tuple[Policy, ...] = ("random", "two choices", "least")
RUNNING = 64
REQUESTS = 20_000  # of a simulation; 300 for each replica where that is more
CHECKED = (0.5, 0.8)  # shares of the capacity that the server is loaded with
CHECK_S = 90.0
ONE = Cluster(replicas=1, running=RUNNING, waiting=1000)  # what is checked
WARM_UP = 0.2
ROUTERS = (1e-3, 1e-4)  # seconds of a router for one request


class Server:
    def __init__(self, url: str) -> None:
        self._http = httpx2.AsyncClient(base_url=url, timeout=600, limits=httpx2.Limits(max_connections=None))
        self._chance = random.Random(0)

    async def refine(self, prompt_words: int, answers: Sequence[int]) -> float:
        """Seconds for a refinement whose rounds have these lengths; the prompt is like no other."""
        words = f"Note {self._chance.random()}. " + " ".join(self._chance.choices(SENTENCES, k=prompt_words // 12 + 1))
        # One limit holds for all rounds, so rounds of unlike lengths are calls of their own, each with its draft.
        started = time.perf_counter()
        sampling: dict[str, Any] = {"temperature": 0.7, "top_p": 1.0}
        if len(set(answers)) == 1:
            await self._ask(words, {"rounds": len(answers) - 1}, sampling, answers[0])
        else:
            text = await self._ask(words, {"rounds": 0}, sampling, answers[0])
            for length in answers[1:]:
                text = await self._ask(words, {"rounds": 1, "draft": text}, sampling, length)
        return time.perf_counter() - started

    async def _ask(self, prompt: str, refine: dict[str, Any], sampling: dict[str, Any], tokens: int) -> str:
        body = {"messages": [{"role": "user", "content": prompt}], "refine": refine, "max_tokens": tokens}
        answer = await self._http.post("/v1/chat/completions", json=body | {"min_tokens": tokens} | sampling)
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["message"]["content"])

    async def kv_tokens(self) -> int:
        page = (await self._http.get("/metrics")).text
        labels = re.search(r"^vllm:cache_config_info\{(.*)\}", page, re.MULTILINE)
        if labels is None:
            raise RuntimeError("the server shows no vllm:cache_config_info")
        block, blocks = (re.search(rf'\b{name}="(\d+)"', labels[1]) for name in ("block_size", "num_gpu_blocks"))
        assert block
        assert blocks
        return int(block[1]) * int(blocks[1])


async def measured(server: Server) -> Costs:
    prefill = await _prefill_s(server)
    steps = []
    for size in SIZES:
        seconds = await _wall_s(server, size)
        reading = size * prefill * WORK.read
        steps.append((size, (seconds - reading) / WORK.tokens))
        print(f"{size} at work: {steps[-1][1] * 1e3:.1f} ms a step", flush=True)
    return Costs(tuple(steps), prefill, await server.kv_tokens())


async def _wall_s(server: Server, size: int) -> float:
    """Median seconds in which `size` refinements, begun together, end; each with all rounds of the mean length."""
    answers = [WORK.answer] * (WORK.rounds + 1)
    times = []
    for _ in range(3):  # the first warms up
        started = time.perf_counter()
        await asyncio.gather(*(server.refine(WORK.prompt, answers) for _ in range(size)))
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


async def _prefill_s(server: Server) -> float:
    """Seconds per prompt token: what 1,200 more words take, one answer token each; a word of ours is 1.15 tokens."""
    short, long = [], []
    for _ in range(5):
        short.append(await server.refine(24, [1]))
        long.append(await server.refine(1224, [1]))
    return (statistics.median(long) - statistics.median(short)) / (1200 * 1.15)


async def checked(server: Server, costs: Costs, share: float, seed: int) -> dict[str, float]:
    """Latencies of the server at this share of the capacity by formula."""
    rate = share * capacity(costs, WORK, ONE)
    chance = random.Random(seed)
    asked: list[asyncio.Task[float]] = []
    started, due = time.perf_counter(), 0.0
    while (due := due + chance.expovariate(rate)) < CHECK_S:
        await asyncio.sleep(started + due - time.perf_counter())
        lengths = [max(1, round(chance.expovariate(1 / WORK.answer))) for _ in range(WORK.rounds + 1)]
        asked.append(asyncio.create_task(server.refine(WORK.prompt, lengths)))
    latencies = await asyncio.gather(*asked)
    cuts = statistics.quantiles(latencies[int(len(latencies) * WARM_UP) :], n=20, method="inclusive")
    return {"share": share, "per_s": rate, "requests": len(latencies), "p50_s": cuts[9], "p95_s": cuts[18]}


def expected(costs: Costs, check: dict[str, float]) -> dict[str, float]:
    """What the simulation says of so many arrivals on an idle server: means, and the range of the middle 90 of 100."""
    found = [simulate(costs, WORK, ONE, check["per_s"], int(check["requests"]), seed, WARM_UP) for seed in range(100)]
    figures: dict[str, float] = {}
    for name in ("p50_s", "p95_s"):
        values = sorted(getattr(outcome, name) for outcome in found)
        figures |= {name: statistics.mean(values), f"{name}_least": values[5], f"{name}_most": values[94]}
    return figures


def simulated(costs: Costs) -> dict[str, list[dict[str, Any]]]:
    """The sweeps of docs/scaling.md, by name."""
    sweeps = (by_work, by_replicas, by_router, by_queue, by_cache)
    return {sweep.__name__.removeprefix("by_"): sweep(costs) for sweep in sweeps}


def by_work(costs: Costs) -> list[dict[str, Any]]:
    """Requests/s of one replica by length and k: the formula, and what a simulated overload gets through."""
    rows = []
    for answer in (64, 256):
        for rounds in (0, 1, 2, 3):
            work = replace(WORK, answer=answer, rounds=rounds)
            cluster = Cluster(1, RUNNING, waiting=RUNNING)
            formula = capacity(costs, work, cluster)
            outcome = simulate(costs, work, cluster, 1.5 * formula, REQUESTS)
            rows.append({"answer": answer, "rounds": rounds, "formula_per_s": formula, **asdict(outcome)})
    return rows


def by_replicas(costs: Costs) -> list[dict[str, Any]]:
    """Latency at 90 % of the capacity, by the number of replicas and by how requests are placed."""
    rows = []
    for replicas in (1, 10, 100, 1000, 4000):
        for policy in POLICIES:
            cluster = Cluster(replicas, RUNNING, waiting=RUNNING, policy=policy)
            rate = 0.9 * capacity(costs, WORK, cluster)
            outcome = simulate(costs, WORK, cluster, rate, max(REQUESTS, 300 * replicas))
            rows.append({"replicas": replicas, "policy": policy, "rate": rate, **asdict(outcome)})
    return rows


def by_router(costs: Costs) -> list[dict[str, Any]]:
    """One router before 0.5, 1 and 1.5 times as many replicas as it can keep at 90 % of their capacity."""
    rows = []
    one = 0.9 * capacity(costs, WORK, Cluster(1, RUNNING, RUNNING))
    for router_s in ROUTERS:
        for share in (0.5, 1.0, 1.5):
            replicas = round(share / router_s / one)
            cluster = Cluster(replicas, RUNNING, waiting=RUNNING, policy="two choices", router_s=router_s)
            outcome = simulate(costs, WORK, cluster, replicas * one, max(REQUESTS, 300 * replicas))
            rows.append({"router_s": router_s, "replicas": replicas, "rate": replicas * one, **asdict(outcome)})
    return rows


def by_queue(costs: Costs) -> list[dict[str, Any]]:
    """Ten replicas below and above their capacity, by the length of the queue that each may have."""
    rows = []
    for waiting in (0, 64, 256):
        for share in (0.8, 1.0, 1.2):
            cluster = Cluster(10, RUNNING, waiting)
            outcome = simulate(costs, WORK, cluster, share * capacity(costs, WORK, cluster), REQUESTS)
            rows.append({"waiting": waiting, "share": share, **asdict(outcome)})
    return rows


def by_cache(costs: Costs) -> list[dict[str, Any]]:
    """Where the KV cache, not the limit, says how many are at work: longer chats, one replica, 90 % of its capacity."""
    rows = []
    for prompt in (500, 2000, 4000, 7000):
        work = replace(WORK, prompt=prompt)
        cluster = Cluster(1, RUNNING, waiting=4 * RUNNING)
        rate = 0.9 * capacity(costs, work, cluster)
        outcome = simulate(costs, work, cluster, rate, REQUESTS)
        rows.append({"prompt": prompt, "places": places(costs, work, RUNNING), "rate": rate, **asdict(outcome)})
    return rows


def tables(figures: dict[str, Any]) -> str:
    costs, sweeps = figures["costs"], figures["simulated"]
    lines = [f"{figures['date']}, {figures['machine']}.", "", "Costs of one replica:", ""]
    lines += _table("at work | ms a step | tokens/s", ([n, s * 1e3, n / s] for n, s in costs["steps"]))
    lines += [
        "",
        f"A prompt token takes {costs['prefill_s'] * 1e3:.2f} ms; the KV cache holds {costs['kv_tokens']:,} tokens.",
    ]
    lines += ["", "The simulation beside the server that it was fed from, seconds:", ""]
    lines += _table(
        "share of capacity | requests/s | server p50, p95 | simulation p50, p95 | middle 90 of 100 simulations",
        (
            [c["share"], c["per_s"], _pair(c["p50_s"], c["p95_s"]), _pair(e["p50_s"], e["p95_s"]), _ranges(e)]
            for c, e in zip(figures["checks"], figures["expected"], strict=True)
        ),
    )
    return "\n".join([*lines, *_sweeps(sweeps), ""])


def _sweeps(sweeps: dict[str, list[dict[str, Any]]]) -> list[str]:
    lines: list[str] = []
    lines += ["", "One replica, requests/s:", ""]
    lines += _table(
        "answer, tokens | rounds | formula | simulation, overloaded",
        ([r["answer"], r["rounds"], r["formula_per_s"], r["per_s"]] for r in sweeps["work"]),
    )
    lines += ["", "At 90 % of the capacity, p95 over the time of a lone refinement (and refused, %):", ""]
    rows = sweeps["replicas"]
    lines += _table(
        f"replicas | requests/s | {' | '.join(POLICIES)}",
        (
            [size, next(r["rate"] for r in rows if r["replicas"] == size)]
            + [_slowdown(next(r for r in rows if (r["replicas"], r["policy"]) == (size, p))) for p in POLICIES]
            for size in dict.fromkeys(r["replicas"] for r in rows)
        ),
    )
    lines += ["", "One router before them, two choices, load 90 % of the replicas' capacity:", ""]
    lines += _table(
        "router's time, ms | replicas | load, requests/s | done, requests/s | router busy, % | p95 / alone",
        (
            [
                r["router_s"] * 1e3,
                r["replicas"],
                r["rate"],
                r["per_s"],
                100 * r["router_share"],
                r["p95_s"] / r["alone_s"],
            ]
            for r in sweeps["router"]
        ),
    )
    lines += ["", "Ten replicas around their capacity:", ""]
    lines += _table(
        "queue of each | load / capacity | done / capacity | refused, % | p50, p95 s",
        (
            [
                r["waiting"],
                r["share"],
                r["per_s"] / (10 * _one(sweeps)),
                100 * _refused(r),
                _pair(r["p50_s"], r["p95_s"]),
            ]
            for r in sweeps["queue"]
        ),
    )
    lines += ["", "Where the KV cache is the limit:", ""]
    lines += _table(
        "prompt, tokens | places of 64 | requests/s | cache held, % | p95 / alone",
        (
            [r["prompt"], r["places"], r["per_s"], 100 * r["kv_share"], r["p95_s"] / r["alone_s"]]
            for r in sweeps["cache"]
        ),
    )
    return lines


def _table(head: str, rows: Any) -> list[str]:
    columns = head.count("|") + 1
    return [f"| {head} |", "|---" * columns + "|", *(f"| {' | '.join(map(_cell, row))} |" for row in rows)]


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if isinstance(value, int) or value >= 1000 else f"{value:.3g}"


def _pair(one: float, other: float) -> str:
    return f"{one:.2f}, {other:.2f}"


def _ranges(row: dict[str, Any]) -> str:
    return ", ".join(f"{row[f'{name}_least']:.2f} to {row[f'{name}_most']:.2f}" for name in ("p50_s", "p95_s"))


def _refused(row: dict[str, Any]) -> float:
    return float(row["refused"] / (row["refused"] + row["finished"]))


def _slowdown(row: dict[str, Any]) -> str:
    return f"{row['p95_s'] / row['alone_s']:.2f} ({100 * _refused(row):.1f})"


def _one(sweeps: dict[str, list[dict[str, Any]]]) -> float:
    return float(next(r["formula_per_s"] for r in sweeps["work"] if (r["answer"], r["rounds"]) == (64, 2)))


async def measure() -> tuple[Costs, list[dict[str, float]]]:
    async with ours("--limits.running", str(RUNNING)) as system:
        server = Server(system.url)
        costs = await measured(server)
        return costs, [await checked(server, costs, share, seed) for seed, share in enumerate(CHECKED)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulate", action="store_true", help="with the costs that are recorded")
    if parser.parse_args().simulate:
        figures = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
        kept = figures["costs"]
        costs = Costs(tuple((n, s) for n, s in kept["steps"]), kept["prefill_s"], kept["kv_tokens"])
    else:
        figures = occasion()
        costs, checks = asyncio.run(measure())
        figures |= {"costs": asdict(costs), "checks": checks}
    figures["expected"] = [expected(costs, check) for check in figures["checks"]]
    figures["simulated"] = simulated(costs)
    write("scaling", figures, tables(figures), "scaling.md")


if __name__ == "__main__":
    main()
