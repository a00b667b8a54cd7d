"""How many replicas a load needs: costs measured on the real server, and the formula that is fed with them.

    python -m benchmarks.scaling                measure the costs, and how long refinements take under load
    python -m benchmarks.scaling --simulate     only compute and simulate, with the costs of benchmarks/scaling.json

Measured on a built-in model or on --bundle, refinements with 2 rounds of 64 tokens each:

    costs       seconds of a decode step by how many refinements are at work, and of a prompt token
    check       Poisson arrivals on the server, p50 and p95 of their latency beside those that the simulation gives

Formula and simulation of one replica are in benchmarks/simulation.py. Writes benchmarks/scaling.json and the tables of
docs/scaling.md.
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.process import server
from benchmarks.prompts import SENTENCES
from benchmarks.report import occasion, write
from benchmarks.simulation import Costs, Work, capacity, places, simulate
from slhf_server.builtin.catalogue import TRAINED

SIZES = (1, 2, 4, 8, 16, 32, 64)
WORK = Work(prompt=50, answer=64, rounds=2)
WORKS = [Work(50, answer, rounds) for answer in (64, 256) for rounds in range(4)] + [
    Work(prompt, 64, 2) for prompt in (500, 2000, 4000, 7000)
]
RUNNING = 64
LOADS = (0.5, 0.7, 0.8, 0.9, 1.0, 1.2)  # shares of the capacity that are simulated
QUEUES = (0, 64, 256)
REQUESTS = 20_000  # of a simulation
CHECKED = (0.5, 0.8)  # shares of the capacity that the server is loaded with
CHECK_S = 90.0
WARM_UP = 0.2


class Client:
    def __init__(self, url: str) -> None:
        self._http = httpx2.AsyncClient(base_url=url, timeout=600, limits=httpx2.Limits(max_connections=None))
        self._chance = random.Random(0)

    async def refine(self, prompt_words: int, answers: Sequence[int]) -> float:
        """Seconds for a refinement whose rounds have these lengths; the prompt is like no other."""
        words = f"Note {self._chance.random()}. " + " ".join(self._chance.choices(SENTENCES, k=prompt_words // 12 + 1))
        # One limit holds for all rounds, so rounds of unlike lengths are calls of their own, each with its draft.
        started = time.perf_counter()
        if len(set(answers)) == 1:
            await self._ask(words, {"rounds": len(answers) - 1}, answers[0])
        else:
            text = await self._ask(words, {"rounds": 0}, answers[0])
            for length in answers[1:]:
                text = await self._ask(words, {"rounds": 1, "draft": text}, length)
        return time.perf_counter() - started

    async def _ask(self, prompt: str, refine: dict[str, Any], tokens: int) -> str:
        body = {"messages": [{"role": "user", "content": prompt}], "refine": refine, "temperature": 0.7, "top_p": 1.0}
        lengths = {"min_tokens": tokens, "max_tokens": tokens}
        answer = await self._http.post("/v1/chat/completions", json=body | lengths)
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


async def measured(client: Client) -> Costs:
    prefill = await _prefill_s(client)
    steps = []
    for size in SIZES:
        seconds = await _wall_s(client, size)
        steps.append((size, (seconds - size * prefill * WORK.read) / WORK.tokens))
        print(f"{size} at work: {steps[-1][1] * 1e3:.1f} ms a step", flush=True)
    return Costs(tuple(steps), prefill, await client.kv_tokens())


async def _wall_s(client: Client, size: int) -> float:
    """Median seconds in which `size` refinements, begun together, end; each with all rounds of the mean length."""
    answers = [WORK.answer] * (WORK.rounds + 1)
    times = []
    for _ in range(3):  # the first warms up
        started = time.perf_counter()
        await asyncio.gather(*(client.refine(WORK.prompt, answers) for _ in range(size)))
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


async def _prefill_s(client: Client) -> float:
    """Seconds per prompt token: what 1,200 more words take, one answer token each; a word of ours is 1.15 tokens."""
    short, long = [], []
    for _ in range(5):
        short.append(await client.refine(24, [1]))
        long.append(await client.refine(1224, [1]))
    return (statistics.median(long) - statistics.median(short)) / (1200 * 1.15)


async def checked(client: Client, costs: Costs, share: float, seed: int) -> dict[str, float]:
    """Latencies of the server at this share of the capacity by formula."""
    rate = share * capacity(costs, WORK, RUNNING)
    chance = random.Random(seed)
    asked: list[asyncio.Task[float]] = []
    started, due = time.perf_counter(), 0.0
    while (due := due + chance.expovariate(rate)) < CHECK_S:
        await asyncio.sleep(started + due - time.perf_counter())
        lengths = [max(1, round(chance.expovariate(1 / WORK.answer))) for _ in range(WORK.rounds + 1)]
        asked.append(asyncio.create_task(client.refine(WORK.prompt, lengths)))
    latencies = await asyncio.gather(*asked)
    counted = latencies[int(len(latencies) * WARM_UP) :]
    return {"share": share, "per_s": rate, "requests": len(latencies)} | _percentiles(counted)


def expected(costs: Costs, check: dict[str, float]) -> dict[str, float]:
    """What 100 simulations of so many arrivals on an idle server give: the mean, and the range of the middle 90."""
    requests, limits = int(check["requests"]), (RUNNING, 1000)
    runs = [simulate(costs, WORK, limits, check["per_s"], requests, seed, WARM_UP)[0] for seed in range(100)]
    found = [_percentiles(latencies) for latencies in runs]
    figures: dict[str, float] = {}
    for name in ("p50_s", "p95_s"):
        values = sorted(row[name] for row in found)
        figures |= {name: statistics.mean(values), f"{name}_least": values[5], f"{name}_most": values[94]}
    return figures


def loaded(costs: Costs, share: float, waiting: int) -> dict[str, float]:
    """Latency and refusals of one simulated replica by its load and by how many requests may wait."""
    rate = share * capacity(costs, WORK, RUNNING)
    latencies, refused = simulate(costs, WORK, (RUNNING, waiting), rate, REQUESTS)
    return {"share": share, "waiting": waiting, "refused": refused} | _percentiles(latencies)


def _percentiles(latencies: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(latencies, n=20, method="inclusive")
    return {"p50_s": cuts[9], "p95_s": cuts[18]}


def tables(figures: dict[str, Any]) -> str:
    costs, prefill_ms = figures["costs"], figures["costs"]["prefill_s"] * 1e3
    reading = f"A prompt token takes {prefill_ms:.2f} ms; the KV cache holds {costs['kv_tokens']:,} tokens."
    lines = [f"{figures['date']}, {figures['machine']}.", "", "Costs of one replica:", ""]
    lines += _table("at work | ms a step | tokens/s", ([n, s * 1e3, n / s] for n, s in costs["steps"]))
    lines += ["", reading, "", f"One replica by the formula, with `limits.running` {RUNNING}:", ""]
    lines += _table(
        "prompt tokens | answer tokens | rounds | at work | requests/s", map(dict.values, figures["formula"])
    )
    lines += ["", "The server under load beside the simulation that was fed from it, p50 and p95 in seconds:", ""]
    rows = [
        [check["share"], check["per_s"], _pair(check), _pair(mean), _pair(mean, "_least"), _pair(mean, "_most")]
        for check, mean in zip(figures["checks"], figures["expected"], strict=True)
    ]
    lines += _table("load / capacity | requests/s | server | simulation, mean | 5 % are below | 5 % are above", rows)
    lines += ["", "One simulated replica, by how many requests may wait: p50 and p95 in seconds (and refused, %):", ""]
    by_load = {(row["share"], row["waiting"]): f"{_pair(row)} ({100 * row['refused']:.1f})" for row in figures["load"]}
    head = " | ".join(f"{waiting} may wait" for waiting in QUEUES)
    rows = [[share, *(by_load[share, waiting] for waiting in QUEUES)] for share in LOADS]
    return "\n".join([*lines, *_table(f"load / capacity | {head}", rows), ""])


def _table(head: str, rows: Iterable[Iterable[Any]]) -> list[str]:
    columns = head.count("|") + 1
    return [f"| {head} |", "|---" * columns + "|", *(f"| {' | '.join(map(_cell, row))} |" for row in rows)]


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _pair(row: dict[str, float], suffix: str = "") -> str:
    return f"{row[f'p50_s{suffix}']:.1f}, {row[f'p95_s{suffix}']:.1f}"


async def measure(bundle: str) -> tuple[Costs, list[dict[str, float]]]:
    command = [str(Path(sys.executable).with_name("slhf-server")), "--bundle", bundle, "--limits.running", str(RUNNING)]
    async with server(command, "/ready") as process:
        client = Client(process.url)
        costs = await measured(client)
        return costs, [await checked(client, costs, share, seed) for seed, share in enumerate(CHECKED)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulate", action="store_true", help="with the costs that are recorded")
    parser.add_argument("--bundle", default=f"builtin:{TRAINED}", help="what is served (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.simulate:
        known = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
        figures = {name: known[name] for name in ("date", "machine", "costs", "checks")}
        steps = tuple((n, s) for n, s in known["costs"]["steps"])
        costs = Costs(steps, known["costs"]["prefill_s"], known["costs"]["kv_tokens"])
    else:
        figures = occasion()
        costs, checks = asyncio.run(measure(arguments.bundle))
        figures |= {"costs": asdict(costs), "checks": checks}
    figures["expected"] = [expected(costs, check) for check in figures["checks"]]
    figures["formula"] = [
        {"prompt": work.prompt, "answer": work.answer, "rounds": work.rounds}
        | {"at_work": places(costs, work, RUNNING), "per_s": capacity(costs, work, RUNNING)}
        for work in WORKS
    ]
    figures["load"] = [loaded(costs, share, waiting) for share in LOADS for waiting in QUEUES]
    write("scaling", figures, tables(figures), "scaling.md")


if __name__ == "__main__":
    main()
