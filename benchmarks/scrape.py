"""What a scrape of /metrics takes while 64 refinements are streamed, beside one of the idle server.

    python -m benchmarks.scrape [--seconds 20] [--engine]

The server is a process of its own, on a fake model of 50 tokens/s for each stream; with --engine it is vLLM on the
built-in model, whose metrics are on the page too. A scrape waits for the event loop, which the streams keep busy: hence
the ratio.

    (a) a scrape at 64 streams, p95        at most 20 ms
"""

import argparse
import asyncio
import contextlib
import itertools
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.process import Process, server
from benchmarks.report import occasion, write
from slhf_server.builtin.catalogue import TRAINED

AT_ONCE = 64
PAUSE_S = 0.2  # between scrapes
FAKE, VLLM = "fake model, 50 tokens/s a stream", "vLLM, built-in model"
COMMANDS = {
    FAKE: [sys.executable, "-m", "benchmarks.gateway_servers", "paced"],
    VLLM: [str(Path(sys.executable).with_name("slhf-server")), "--bundle", f"builtin:{TRAINED}"],
}
Row = dict[str, float]


async def measure(process: Process, seconds: float) -> dict[str, Row]:
    """Scrapes of the idle server, then of the busy one. Milliseconds; CPU of the server's process alone."""
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=process.url, timeout=600, limits=limits) as http:
        await _stream(http)  # every series is there
        idle = await _scrapes(http, process, seconds)
        streams = [asyncio.create_task(_streams(http)) for _ in range(AT_ONCE)]
        await _until_running(http)
        busy = await _scrapes(http, process, seconds)
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
    return {"idle": idle, "busy": busy}


async def _scrapes(http: httpx2.AsyncClient, process: Process, seconds: float) -> Row:
    times, size = [], 0
    started, cpu = time.perf_counter(), process.cpu_seconds()
    while time.perf_counter() < started + seconds:
        asked = time.perf_counter()
        size = len((await http.get("/metrics")).content)
        times.append((time.perf_counter() - asked) * 1e3)
        await asyncio.sleep(PAUSE_S)
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    share = (process.cpu_seconds() - cpu) / (time.perf_counter() - started)
    return {"p50": cuts[49], "p95": cuts[94], "max": max(times), "kilobytes": size / 1e3, "cores": share}


async def _streams(http: httpx2.AsyncClient) -> None:
    for _ in itertools.count():
        await _stream(http)


async def _stream(http: httpx2.AsyncClient) -> None:
    chat = {"messages": [{"role": "user", "content": "200 words, please"}], "max_tokens": 200, "stream": True}
    async with http.stream("POST", "/v1/chat/completions", json=chat) as answer:
        async for _ in answer.aiter_bytes():
            pass


async def _until_running(http: httpx2.AsyncClient) -> None:
    async with asyncio.timeout(60):
        for _ in itertools.count():
            if _running((await http.get("/metrics")).text) >= AT_ONCE:
                return
            await asyncio.sleep(0.05)


def _running(page: str) -> float:
    lines = (line for line in page.splitlines() if line.startswith("slhf_num_requests_running{"))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


async def run(seconds: float, engine: bool) -> dict[str, Any]:
    systems: dict[str, dict[str, Row]] = {}
    figures = occasion()
    for name in (FAKE, VLLM) if engine else (FAKE,):
        async with contextlib.AsyncExitStack() as stack:
            process = await stack.enter_async_context(server(COMMANDS[name], "/ready"))
            systems[name] = await measure(process, seconds)
    return figures | {"systems": systems}


def table(figures: dict[str, Any]) -> str:
    lines = [f"{figures['date']}, {figures['machine']}.", ""]
    lines += [
        f"| server | page | idle p50, p95 | {AT_ONCE} streams p50, p95, max | ratio of p50 | wanted |",
        "|---" * 6 + "|",
    ]
    for name, rows in figures["systems"].items():
        idle, busy = rows["idle"], rows["busy"]
        cells = [
            name,
            f"{busy['kilobytes']:.0f} kB",
            f"{idle['p50']:.1f}, {idle['p95']:.1f} ms",
            f"{busy['p50']:.1f}, {busy['p95']:.1f}, {busy['max']:.1f} ms",
            f"{busy['p50'] / idle['p50']:.1f}",
            "p95 <= 20 ms",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    cores = ", ".join(f"{rows['busy']['cores']:.2f}" for rows in figures["systems"].values())
    return "\n".join([*lines, "", f"The streams and the scrapes took {cores} of a core in the server's process.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of scrapes, idle and busy")
    parser.add_argument("--engine", action="store_true", help="vLLM as well")
    asked = parser.parse_args()
    figures = asyncio.run(run(asked.seconds, asked.engine))
    write("scrape", figures, table(figures))


if __name__ == "__main__":
    main()
