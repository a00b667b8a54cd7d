"""Whether hostile requests (hostile_inputs.py) make others wait.

    python -m benchmarks.hostile
        starts `slhf-server` with the fake engine in its own process. This process asks /health again and again, calm
        and then while each hostile input is sent for some seconds by another process. Wanted: p99 <= 50 ms for each.
    python -m benchmarks.hostile --base-url URL --api-keys ka,kb --drafts FILE
        asks a running server to refine real drafts, half by each key; once calm, and once while all hostile inputs
        arrive in turn from another process, by the first key. Wanted: nothing lost, at most twice the time.

Both runs of the second command ask for the same drafts with the same seeds, so they do the same work. So that the
second finds nothing of the first in the prefix cache, each conversation begins with a system turn that names its run.
Two refinements before both warm the server up. Hostile inputs that are legal take their part of the engine as any
request does, and without `--pause` two senders ask as fast as they are answered.
"""

import argparse
import asyncio
import contextlib
import gzip
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.hostile_inputs import INPUTS, Hostile
from benchmarks.load import percentiles
from benchmarks.process import server

FAKE = [sys.executable, "-m", "benchmarks.hostile_fake"]
BAR_MS, BAR_RATIO = 50.0, 2.0
_PAUSE_S = 0.005  # between two questions for /health
_AT_ONCE = 2  # hostile requests; drafts: `--at-once`


def bombard(url: str, names: Sequence[str], keys: Sequence[str], pause_s: float, told: Connection) -> None:
    """Send the inputs in turn, again and again, until told to stop; then tell how often each status came."""
    asyncio.run(_bombard(url, [one for one in INPUTS if one.name in names], keys, pause_s, told))


async def _bombard(url: str, inputs: Sequence[Hostile], keys: Sequence[str], pause_s: float, told: Connection) -> None:
    statuses: Counter[str] = Counter()
    bodies = [(one, one.body) for one in inputs]
    headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}

    async def send() -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=60, headers=headers) as http:
            while True:
                for one, body in bodies:
                    try:
                        answer = await http.request("POST" if body else "GET", one.path, content=body)
                        statuses[str(answer.status_code)] += 1
                    except httpx2.TransportError as exc:
                        statuses[type(exc).__name__] += 1
                    await asyncio.sleep(pause_s)

    told.send("begun")
    senders = [asyncio.create_task(send()) for _ in range(_AT_ONCE)]
    await asyncio.to_thread(told.recv)
    for sender in senders:
        sender.cancel()
    await asyncio.wait(senders)
    told.send(dict(statuses))


@contextlib.asynccontextmanager
async def hostile(
    url: str, names: Sequence[str], keys: Sequence[str] = (), pause_s: float = 0.0
) -> AsyncGenerator[Counter[str], None]:
    """Another process sends the inputs until the block ends; then the counter holds the statuses."""
    statuses: Counter[str] = Counter()
    here, there = multiprocessing.Pipe()
    arguments = (url, names, keys, pause_s, there)
    sender = multiprocessing.get_context("spawn").Process(target=bombard, args=arguments, daemon=True)
    sender.start()
    try:
        await asyncio.to_thread(here.recv)
        yield statuses
        here.send("enough")
        statuses.update(await asyncio.to_thread(here.recv))
    finally:
        sender.kill()
        await asyncio.to_thread(sender.join)


async def health(http: httpx2.AsyncClient, seconds: float) -> dict[str, float]:
    """Milliseconds until /health has answered."""
    times, end = [], time.perf_counter() + seconds
    while (before := time.perf_counter()) < end:
        (await http.get("/health")).raise_for_status()
        times.append((time.perf_counter() - before) * 1e3)
        await asyncio.sleep(_PAUSE_S)
    return percentiles(times)


async def health_beside(seconds: float, inputs: Sequence[Hostile]) -> bool:
    print(f"| input | answers | /health p50, p99, max (ms), p99 wanted <= {BAR_MS:.0f} |\n|---|---|---|")
    slow = []
    async with server(FAKE, "/ready") as process, httpx2.AsyncClient(base_url=process.url, timeout=60) as http:
        _row("(calm)", "", await health(http, seconds))
        for one in inputs:
            await http.get("/health")  # what the last input has left behind is not this one's
            async with hostile(process.url, [one.name]) as statuses:
                figures = await health(http, seconds)
            _row(one.name, _told(statuses), figures)
            slow += [one.name] * (figures["p99"] > BAR_MS)
    print(f"\n{len(inputs) - len(slow)} of {len(inputs)} within {BAR_MS:.0f} ms. Over it: {', '.join(slow) or 'none'}.")
    return not slow


def _row(name: str, answers: str, figures: dict[str, float]) -> None:
    print(f"| {name} | {answers} | {figures['p50']:.1f}, {figures['p99']:.1f}, {figures['max']:.1f} |", flush=True)


def _told(statuses: Counter[str]) -> str:
    return ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))


def read_drafts(file: Path, limit: int) -> list[tuple[str, str]]:
    """Instruction and draft of the split "test", or of all records where they have no split."""
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    records = [json.loads(line) for line in content.splitlines() if line.strip()]
    wanted = (record for record in records if record.get("split", "test") == "test")
    found = [(str(r.get("instruction", r.get("prompt"))), str(r.get("output", r.get("draft")))) for r in wanted]
    return found[:limit]


async def refine_all(
    url: str, keys: Sequence[str], drafts: Sequence[tuple[str, str]], run: str, at_once: int, max_tokens: int
) -> dict[str, Any]:
    """Seconds of each answer and of all; what came instead of an answer."""
    places, times, lost = asyncio.Semaphore(at_once), [], Counter[str]()

    async def refine(number: int, http: httpx2.AsyncClient) -> None:
        prompt, draft = drafts[number]
        messages = [{"role": "system", "content": f"Run {run}."}, {"role": "user", "content": prompt}]
        body = {"messages": messages, "max_tokens": max_tokens, "seed": number}
        body["refine"] = {"draft": draft, "rounds": 1, "on_error": "fail"}
        key = keys[number % len(keys)]
        async with places:
            before = time.perf_counter()
            try:
                answer = await http.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})
                if answer.status_code != 200:
                    lost[str(answer.status_code)] += 1
            except httpx2.TransportError as exc:
                lost[type(exc).__name__] += 1
            times.append(time.perf_counter() - before)

    began = time.perf_counter()
    async with httpx2.AsyncClient(base_url=url, timeout=600) as http:
        await asyncio.gather(*(refine(number, http) for number in range(len(drafts))))
    return {"wall": time.perf_counter() - began, "lost": lost, **percentiles(times)}


async def drafts_beside(given: argparse.Namespace) -> bool:
    url, keys, drafts = given.base_url, given.api_keys.split(","), read_drafts(given.drafts, given.limit)
    names = [one.name for one in INPUTS if given.only in one.name]
    await refine_all(url, keys, drafts[:2], "warm-up", 1, 8)
    calm = await refine_all(url, keys, drafts, "one", given.at_once, given.max_tokens)
    async with hostile(url, names, keys, given.pause) as statuses:
        busy = await refine_all(url, keys, drafts, "two", given.at_once, given.max_tokens)
    print("| run | answered | lost | wall (s) | latency p50, p95, max (s) |\n|---|---|---|---|---|")
    for name, run in (("calm", calm), ("hostile", busy)):
        lost = sum(run["lost"].values())
        latency = ", ".join(f"{run[figure]:.2f}" for figure in ("p50", "p95", "max"))
        print(f"| {name} | {len(drafts) - lost} | {_told(run['lost']) or 0} | {run['wall']:.1f} | {latency} |")
    ratios = {figure: busy[figure] / calm[figure] for figure in ("wall", "p50", "p95", "max")}
    print(f"\nHostile / calm, wanted <= {BAR_RATIO:.0f}: {', '.join(f'{n} {r:.2f}' for n, r in ratios.items())}.")
    print(f"Hostile requests answered meanwhile: {_told(statuses)}.")
    return not calm["lost"] and not busy["lost"] and max(ratios["wall"], ratios["p50"], ratios["p95"]) <= BAR_RATIO


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each input")
    parser.add_argument("--only", default="", help="inputs whose name holds this")
    parser.add_argument("--base-url", help="of a running server, without /v1")
    parser.add_argument("--api-keys", default="none", help="two keys, with a comma")
    parser.add_argument("--drafts", type=Path, help="JSON lines (.gz too): instruction or prompt, output or draft")
    parser.add_argument("--limit", type=int, default=100, help="drafts")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after each hostile answer, for the drafts")
    parser.add_argument("--at-once", type=int, default=4, help="drafts under way")
    parser.add_argument("--max-tokens", type=int, default=128, help="of each refinement")
    given = parser.parse_args(arguments)
    if given.base_url:
        return 0 if asyncio.run(drafts_beside(given)) else 1
    inputs = [one for one in INPUTS if given.only in one.name]
    return 0 if asyncio.run(health_beside(given.seconds, inputs)) else 1


if __name__ == "__main__":
    sys.exit(main())
