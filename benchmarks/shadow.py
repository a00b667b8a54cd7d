"""What shadow mode costs those who are served: drafts with a fifth of them refined and judged behind, and without.

    python -m benchmarks.shadow [--seconds 4] [--repeats 25]

One server on a fake model, a process of its own, whose drafts take some 50 ms (10 words). Requests arrive at random
(Poisson) at 50/s and ask for one round: of a model in shadow mode with a share of 0.2, and of a model that is asked for
drafts alone. The two take turns; a figure is the median over the repeats, a ratio that of figures of the same repeat.
The fake model costs nothing while it waits, so this is the server's own part: refinement, judge, statistics, SQLite.

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

from benchmarks.lean_load import Target, open_loop
from benchmarks.process import Process, server
from benchmarks.report import occasion, write
from slhf_server.cli import bind, serve
from slhf_server.models.base import Turn
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import Settings

RATE, AT_ONCE, SHARE, WORDS, PACE_S = 50.0, 64, 0.2, 10, 0.005
WITHOUT, SHADOWED = "drafts alone", "shadow mode"
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


def serve_fake(port: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shadow = {"judge": "house", "share": SHARE, "tokens": 10**12, "verdicts": 10**9}
        settings = Settings(
            port=port,
            log_level="error",
            verdicts_file=Path(folder) / "verdicts.db",
            judges={"house": {"engine": "own"}},
            models={"plain": {}, "shaded": {"shadow": shadow}},
        )
        asyncio.run(serve(settings, bind(settings), fake().open))


def target(process: Process, name: str) -> Target:
    model, rounds = ("shaded", 1) if name == SHADOWED else ("plain", 0)
    chat = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "refine": {"rounds": rounds}}
    return Target(f"{process.url}/v1/chat/completions", json.dumps(chat).encode())


async def measure(process: Process, seconds: float, repeats: int) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {WITHOUT: [], SHADOWED: []}
    for name in rows:
        await open_loop(target(process, name), RATE, AT_ONCE, 2, seed=0)
    for repeat in range(repeats):
        order = [WITHOUT, SHADOWED] if repeat % 2 else [SHADOWED, WITHOUT]
        for name in order:
            cpu, judged = process.cpu_seconds(), await _judged(process)
            sample = await open_loop(target(process, name), RATE, AT_ONCE, seconds, seed=repeat + 1)
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


async def run(seconds: float, repeats: int) -> dict[str, Any]:
    figures = occasion()
    async with server([sys.executable, "-m", "benchmarks.shadow", "--serve"], "/ready") as process:
        return figures | {"rows": await measure(process, seconds, repeats)}


def table(figures: dict[str, Any]) -> str:
    rows = figures["rows"]
    lines = [f"{figures['date']}, {figures['machine']}.", ""]
    lines += ["| at 50 requests/s | p50 | p99 | p99, lowest to highest | judged | CPU per request |", "|---" * 6 + "|"]
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
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve_fake(asked.port)
        return
    figures = asyncio.run(run(asked.seconds, asked.repeats))
    write("shadow", figures, table(figures))


if __name__ == "__main__":
    main()
