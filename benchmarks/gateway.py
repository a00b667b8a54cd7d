"""What the gateway itself costs: the server on a fake model that answers at once, beside FastAPI alone.

    python -m benchmarks.gateway [--repeats 3]

The server (as `slhf-server` runs it), the echo server and the load generator (this process) are three processes.
Systems take turns; a figure is the median over the repeats, a difference or ratio that of figures of the same repeat.
Every request to the server is a draft and one refinement (k = 1). Writes benchmarks/gateway.json and a table of
docs/benchmarks.md.

Two loads, because one number cannot say both. In a closed loop 16 clients ask without pause: this finds the
throughput. There each request waits for 15 others, so its latency is 16 / throughput and says nothing else. In an open
loop requests arrive at random (Poisson) at 400/s, whatever the server does, on at most 16 connections: here latency is
what a client of a server that keeps up waits for. Hence:

    (a) latency in the open loop - echo's in the open loop, p50 and p99           at most 3 ms and 15 ms
    (b) requests/s in the closed loop, not streamed                               at least 400
    (c) CPU and wall time per token of a stream of 500 - those per frame of echo  at most 0.15 ms

Beside (a) stands X-SLHF-Overhead-Ms: what the server itself counts, which begins after parsing and ends before
rendering. CPU per request is the server process's own, from /proc; it barely depends on what else the machine does.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from benchmarks.gateway_servers import SHORT
from benchmarks.lean_load import Sample, Target, closed_loop, open_loop
from benchmarks.process import Process, server
from benchmarks.report import occasion, write

AT_ONCE = 16
RATE = 400.0  # requests/s of the open loop
LONG = 500  # tokens of a long stream
CHAT, STREAM, ECHO, MODEL, FRAMES = "slhf-server", "slhf-server, streamed", "echo", "echo, pydantic", "echo, streamed"
LONG_STREAM, LONG_FRAMES = "slhf-server, 500 tokens", "echo, 500 frames"
Row = dict[str, float]


@dataclass(frozen=True, slots=True)
class System:
    name: str
    process: Process
    target: Target
    frames: int = 0
    """Of a stream whose cost per frame is asked for."""


def systems(ours: Process, echo: Process) -> tuple[list[System], list[System]]:
    """Those that get both loads, and those that stream long."""
    padding = " lorem ipsum dolor sit amet" * 20  # makes the echoed body as long as the server's answer
    body = _body({"role": "user", "content": f"Tell me{padding}"})
    streamed = _body({"role": "user", "content": f"Tell me{padding}"}, stream=True)
    refine = {"draft": "word", "rounds": 1}
    long = _body({"role": "user", "content": f"{LONG} words"}, stream=True, refine=refine)
    chat = f"{ours.url}/v1/chat/completions"
    both = [
        System(CHAT, ours, Target(chat, body)),
        System(ECHO, echo, Target(f"{echo.url}/echo", body)),
        System(MODEL, echo, Target(f"{echo.url}/model", body)),
        System(STREAM, ours, Target(chat, streamed)),
        System(
            FRAMES, echo, Target(f"{echo.url}/stream/{SHORT + 3}", body)
        ),  # role, finish and [DONE] beside the words
    ]
    streams = [
        System(LONG_STREAM, ours, Target(chat, long), LONG),
        System(LONG_FRAMES, echo, Target(f"{echo.url}/stream/{LONG}", long), LONG),
    ]
    return both, streams


def _body(message: dict[str, str], **parameters: Any) -> bytes:
    return json.dumps({"model": "fake", "messages": [message], **parameters}).encode()


async def measured(system: System, load: Awaitable[Sample]) -> Row:
    cpu, own, started = system.process.cpu_seconds(), time.process_time(), time.perf_counter()
    sample = await load
    wall = time.perf_counter() - started
    cpu = system.process.cpu_seconds() - cpu
    requests = len(sample.latencies)
    row = {
        "per_s": sample.per_second,
        "p50_ms": quantile(sample.latencies, 0.5),
        "p99_ms": quantile(sample.latencies, 0.99),
        "cpu_ms": cpu / requests * 1e3,
        "server_busy": cpu / wall,
        "generator_busy": (time.process_time() - own) / wall,
        "answer_bytes": sample.answer_bytes,
    }
    if sample.server_overheads:
        row |= {f"own_p{share}_ms": quantile(sample.server_overheads, share / 100) for share in (50, 99)}
    if system.frames:
        row |= {"frame_cpu_ms": row["cpu_ms"] / system.frames, "frame_wall_ms": 1e3 / row["per_s"] / system.frames}
    return row


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def turns(both: Sequence[System], streams: Sequence[System], repeats: int) -> list[dict[str, Row]]:
    """By repeat: the rows of each system, `NAME closed` and `NAME open`."""
    found = []
    for repeat in range(repeats):
        rows: dict[str, Row] = {}
        for system in (*both, *streams):
            rows[f"{system.name} closed"] = await measured(system, closed_loop(system.target, AT_ONCE, 2.5))
        for system in both:
            load = open_loop(system.target, RATE, AT_ONCE, 5.0, seed=repeat)
            rows[f"{system.name} open"] = await measured(system, load)
        found.append(rows)
        for name, row in rows.items():
            print(repeat, name, " ".join(f"{key} {value:.3f}" for key, value in row.items()), flush=True)
    return found


async def run(repeats: int) -> dict[str, Any]:
    program, figures = [sys.executable, "-m", "benchmarks.gateway_servers"], occasion()
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(server([*program, "slhf"], "/ready"))
        echo = await stack.enter_async_context(server([*program, "echo"], "/ready"))
        both, streams = systems(ours, echo)
        for system in (*both, *streams):
            await closed_loop(system.target, AT_ONCE, 0.5)  # warm
        repeated = await turns(both, streams, repeats)
    return figures | {
        "versions": {name: version(name) for name in ("slhf-server", "fastapi", "pydantic", "uvicorn")},
        "repeats": repeated,
    }


def median(figures: dict[str, Any], value: Callable[[dict[str, Row]], float]) -> float:
    return statistics.median(map(value, figures["repeats"]))


def typical(figures: dict[str, Any], run: str) -> Row:
    """Each figure of one system under one load: its median over the repeats."""
    rows = [repeat[run] for repeat in figures["repeats"]]
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def tables(figures: dict[str, Any]) -> str:
    """Markdown: the figures that have a target, then all systems."""
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    lines = [
        f"{figures['date']}, {figures['machine']}. {versions}.",
        "",
        "| figure | measured | wanted |",
        "|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in _targets(figures)]
    lines += ["", "| system | requests/s | CPU ms | p50 ms at 400/s | p99 ms at 400/s | server's own p50, p99 |"]
    lines.append("|---" * 6 + "|")
    lines += [f"| {' | '.join(row)} |" for row in _systems(figures)]
    busy = typical(figures, f"{ECHO} closed")
    lines += [
        "",
        f"Requests/s and CPU of the closed loop. With echo in it the server took {busy['server_busy']:.2f} and the "
        f"load generator {busy['generator_busy']:.2f} of a core.",
    ]
    return "\n".join(lines) + "\n"


def _targets(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    def over_echo(key: str) -> str:
        return f"{median(figures, lambda r: r[f'{CHAT} open'][key] - r[f'{ECHO} open'][key]):.2f} ms"

    def over_frames(key: str) -> str:
        return f"{median(figures, lambda r: r[f'{LONG_STREAM} closed'][key] - r[f'{LONG_FRAMES} closed'][key]):.3f} ms"

    def ratio(ours: str, theirs: str) -> str:
        return f"{median(figures, lambda r: r[f'{ours} closed']['per_s'] / r[f'{theirs} closed']['per_s']):.2f}"

    return [
        ("(a) latency over echo, p50", over_echo("p50_ms"), "<= 3 ms"),
        ("(a) latency over echo, p99", over_echo("p99_ms"), "<= 15 ms"),
        ("(b) requests/s", f"{median(figures, lambda r: r[f'{CHAT} closed']['per_s']):.0f}", ">= 400"),
        ("(c) stream, CPU per token over echo", over_frames("frame_cpu_ms"), "<= 0.15 ms"),
        ("(c) stream, wall per token over echo", over_frames("frame_wall_ms"), "<= 0.15 ms"),
        ("requests/s / echo", ratio(CHAT, ECHO), ""),
        ("requests/s / echo with a pydantic model", ratio(CHAT, MODEL), ""),
        ("streams/s / echo's", ratio(STREAM, FRAMES), ""),
    ]


def _systems(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name in (CHAT, ECHO, MODEL, STREAM, FRAMES):
        closed, at_rate = typical(figures, f"{name} closed"), typical(figures, f"{name} open")
        own = f"{at_rate['own_p50_ms']:.1f}, {at_rate['own_p99_ms']:.1f}" if "own_p50_ms" in at_rate else ""
        figures_of = (f"{closed['per_s']:.0f}", f"{closed['cpu_ms']:.2f}")
        rows.append((name, *figures_of, f"{at_rate['p50_ms']:.2f}", f"{at_rate['p99_ms']:.2f}", own))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    figures = asyncio.run(run(parser.parse_args().repeats))
    write("gateway", figures, tables(figures))


if __name__ == "__main__":
    main()
