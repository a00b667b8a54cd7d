"""What shadow mode costs those who are served: drafts with a fifth of them refined and judged behind, and without.

    python -m benchmarks.shadow [--seconds 4] [--repeats 25]
    python -m benchmarks.shadow --engine --seconds 20 --repeats 6

One server on a fake model, a process of its own, whose drafts take some 50 ms (10 words). Requests arrive at random
(Poisson) at 50/s and ask for one round: of a model in shadow mode with a share of 0.2, and of a model that is asked for
drafts alone. The two take turns; a figure is the median over the repeats, a ratio that of figures of the same repeat.
The fake model costs nothing while it waits, so this is the server's own part: refinement, judge, statistics, SQLite.

With `--engine` the server is the real one with the built-in 135M model on the CPU, which writes drafts of 32 tokens.
Its capacity is measured first, with 8 clients that ask again and again; then half as many requests come, and what is
in the shadow runs only while no client waits (`when_idle`).

    (a) p50 in shadow mode / p50 without        at most 1.05
    (b) p99, as above                           within what it varies by without
"""

import argparse
import asyncio
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.lean_load import Target, closed_loop, open_loop
from benchmarks.process import Process, server
from benchmarks.report import occasion, write
from slhf_server.builtin.catalogue import TRAINED
from slhf_server.cli import bind, serve
from slhf_server.loading.start import open_vllm
from slhf_server.models.base import Turn
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import Settings

RATE, AT_ONCE, SHARE, WORDS, PACE_S = 50.0, 64, 0.2, 10, 0.005
WITHOUT, SHADOWED = "drafts alone", "shadow mode"
BUNDLE, TOKENS, CLIENTS = f"builtin:{TRAINED}", 32, 8
QUESTION = "Why is the sky blue, and why is it red where the sun goes down? " * 4
Row = dict[str, float]


def fake() -> FakeEngine:
    """Writes drafts and refinements of as many words; of two texts as a judge it says A."""

    def reply(turns: Sequence[Turn]) -> str:
        engine.leader.calls.clear()  # what the fake keeps for tests would only grow here
        engine.follower.calls.clear()
        if turns[0].text.startswith("What follows is quoted"):
            return "A"
        return f"{'refined' if len(turns) > 1 else 'draft'} {'word ' * (WORDS - 2)}end"

    engine = FakeEngine(reply, token_seconds=PACE_S)
    return engine


def settings_of(port: int, folder: Path, **engine: Any) -> Settings:
    shadow = {"judge": "house", "share": SHARE, "tokens": 10**12, "verdicts": 10**9, "when_idle": bool(engine)}
    return Settings(
        port=port,
        log_level="error",
        verdicts_file=folder / "verdicts.db",
        judges={"house": {"engine": "own"}},
        models={"plain": {}, "shaded": {"shadow": shadow}},
        **engine,
    )


def serve_one(port: int, *, real: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(port, Path(folder), **({"bundle": BUNDLE} if real else {}))
        asyncio.run(serve(settings, bind(settings), open_vllm if real else fake().open))


def target(process: Process, name: str) -> Target:
    model, rounds = ("shaded", 1) if name == SHADOWED else ("plain", 0)
    chat: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": QUESTION}]}
    chat |= {"refine": {"rounds": rounds}, "max_tokens": TOKENS}  # the fake writes fewer
    return Target(f"{process.url}/v1/chat/completions", json.dumps(chat).encode())


async def measure(process: Process, rate: float, seconds: float, repeats: int) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {WITHOUT: [], SHADOWED: []}
    for name in rows:
        await open_loop(target(process, name), rate, AT_ONCE, 2, seed=0)
    for repeat in range(repeats):
        order = [WITHOUT, SHADOWED] if repeat % 2 else [SHADOWED, WITHOUT]
        for name in order:
            cpu, judged = process.cpu_seconds(), await _judged(process)
            sample = await open_loop(target(process, name), rate, AT_ONCE, seconds, seed=repeat + 1)
            cuts = statistics.quantiles(sample.latencies, n=100, method="inclusive")
            answered = len(sample.latencies)
            rows[name].append(
                {
                    "p50": cuts[49],
                    "p99": cuts[98],
                    "answered": answered,
                    "judged": await _judged(process) - judged,
                    "cpu_ms": (process.cpu_seconds() - cpu) / answered * 1e3,
                }
            )
    return rows


async def _judged(process: Process) -> float:
    async with httpx2.AsyncClient(base_url=process.url) as http:
        page = (await http.get("/metrics")).text
    found = re.findall(r'^slhf_shadow_total\{.*result="judged".*\} (\S+)$', page, re.MULTILINE)
    return sum(map(float, found))


async def run(seconds: float, repeats: int, *, real: bool) -> dict[str, Any]:
    figures = occasion()
    command = [sys.executable, "-m", "benchmarks.shadow", "--serve", *(["--engine"] if real else [])]
    async with server(command, "/ready") as process:
        rate = RATE
        if real:
            await closed_loop(target(process, WITHOUT), CLIENTS, 5)
            rate = (await closed_loop(target(process, WITHOUT), CLIENTS, 30)).per_second / 2
        return figures | {"rate": rate, "rows": await measure(process, rate, seconds, repeats)}


def table(figures: dict[str, Any]) -> str:
    rows = figures["rows"]
    lines = [f"{figures['date']}, {figures['machine']}.", ""]
    lines += [
        f"| at {figures['rate']:.3g} requests/s | p50 | p99 | p99, lowest to highest | judged | CPU per request |",
        "|---" * 6 + "|",
    ]
    for name, each in rows.items():
        middle = {key: statistics.median(row[key] for row in each) for key in each[0]}
        spread = " to ".join(f"{end(row['p99'] for row in each):.0f}" for end in (min, max))
        share = sum(row["judged"] for row in each) / sum(row["answered"] for row in each)
        cells = (name, f"{middle['p50']:.1f} ms", f"{middle['p99']:.1f} ms", f"{spread} ms", f"{share:.0%}")
        lines.append(f"| {' | '.join(cells)} | {middle['cpu_ms']:.2f} ms |")
    pairs = [*zip(rows[SHADOWED], rows[WITHOUT], strict=True)]
    ratios = {key: statistics.median(one[key] / other[key] for one, other in pairs) for key in ("p50", "p99")}
    said = f"Shadow mode over drafts alone: p50 {ratios['p50']:.3f} (wanted: at most 1.05), p99 {ratios['p99']:.2f}."
    return "\n".join([*lines, "", said, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--engine", action="store_true", help="the real one")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve_one(asked.port, real=asked.engine)
        return
    figures = asyncio.run(run(asked.seconds, asked.repeats, real=asked.engine))
    write("shadow_engine" if asked.engine else "shadow", figures, table(figures))


if __name__ == "__main__":
    main()
