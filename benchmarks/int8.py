"""int8 against bfloat16 on this CPU: two servers of one bundle that take turns in one run.

    python -m benchmarks.int8 PROMPTS.jsonl --bundle BUNDLE [--answers 200] [--repeats 3]

A row of PROMPTS has a `prompt` or an `instruction`: a text, or messages of which the first user's is taken. The server
in int8 answers them, and these answers are what is compared and refined. Ratios are medians over the repeats.
Writes benchmarks/int8.json and the table of docs/benchmarks.md; --name int8-avx2 writes those of a CPU without AVX512.

    (a) KL(unrounded || int8) of the next token, over the answers' tokens, nats
    (b) tokens/s of Leader answers of 64 tokens, int8 / bfloat16, 1 to 32 at once      at least 3 at 16
    (c) tokens/s of Follower rounds alone, with and without speculation                at least 3 with
    (d) seconds to a warm start; resident memory after the load                        at most 40 s, 6 GB
"""

import argparse
import asyncio
import gzip
import json
import re
import statistics
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx2
import torch
from transformers import AutoTokenizer

from benchmarks.divergence import divergence
from benchmarks.process import Process, server
from benchmarks.report import occasion, write
from slhf_server.bundles.merging import merged
from slhf_server.bundles.quantization import quantized
from slhf_server.engine.cpu import dtype_for, weight_range
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.loading.opening import open_bundle
from slhf_server.models.base import Turn
from slhf_server.settings.server import Settings

AT_ONCE = (1, 2, 4, 8, 16, 32)
TOKENS = 64  # of a Leader's answer in (b)
LONGEST = 256  # tokens of an answer that is compared and refined
ROUNDS = 8  # Follower rounds in a repeat of (c)
WISH = "Correct what is wrong and keep the rest."
NAMES: dict[str, list[str]] = {
    "bfloat16": ["--cpu-quantization", "none", "--engine", "dtype=bfloat16"],
    "int8": ["--cpu-quantization", "int8"],
}
HOW: tuple[Literal["none", "int8"], ...] = ("none", "int8")


@dataclass(frozen=True)
class Served:
    """One of the two servers."""

    process: Process
    http: httpx2.AsyncClient
    start_s: float

    async def answer(self, prompt: str) -> None:
        await self._ask(prompt, min_tokens=TOKENS, max_tokens=TOKENS)

    async def write(self, prompt: str) -> str:
        text: str = (await self._ask(prompt, max_tokens=LONGEST))["choices"][0]["message"]["content"]
        return text

    async def refine(self, prompt: str, draft: str) -> int:
        """Tokens of one Follower round. It has a wish, so that also a Follower that leaves most drafts alone writes."""
        wish = {"draft": draft, "rounds": 1, "instruction": WISH}
        found = await self._ask(prompt, refine=wish, max_tokens=LONGEST)
        return int(found["usage"]["completion_tokens"])

    async def _ask(self, prompt: str, **more: Any) -> Any:
        body = {"messages": [{"role": "user", "content": prompt}], "refine": {"rounds": 0}} | more
        answer = await self.http.post(f"{self.process.url}/v1/chat/completions", json=body)
        answer.raise_for_status()
        return answer.json()

    def resident_gb(self) -> float:
        """Of its processes, what they share divided among them."""
        family = {self.process.pid}
        for _ in range(5):
            stats = {int(path.parent.name): path for path in Path("/proc").glob("[0-9]*/stat")}
            family |= {pid for pid, path in stats.items() if _parent(path) in family}
        pages = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in family]
        return sum(int(found[1]) for page in pages if (found := re.search(r"^Pss: +(\d+) kB", page, re.M))) / 1e6


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rsplit(")", 1)[1].split()[1])
    except FileNotFoundError:  # a process that has ended meanwhile
        return 0


@asynccontextmanager
async def both(bundle: str, *flags: str) -> AsyncGenerator[dict[str, Served], None]:
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx2.AsyncClient(timeout=1200, limits=httpx2.Limits()))
        found = {}
        for name, precision in NAMES.items():
            started = time.perf_counter()
            command = ["slhf-server", "--bundle", bundle, *precision, *flags]
            process = await stack.enter_async_context(server(command, "/ready"))
            found[name] = Served(process, http, time.perf_counter() - started)
            await found[name].answer("Hello.")  # warm: kernels, connections
        yield found


async def throughput(served: Served, texts: Sequence[str], at_once: int) -> float:
    """Generated tokens per second, `at_once` answers under way at a time."""
    places = asyncio.Semaphore(at_once)

    async def one(text: str) -> None:
        async with places:
            await served.answer(text)

    started = time.perf_counter()
    await asyncio.gather(*map(one, texts))
    return len(texts) * TOKENS / (time.perf_counter() - started)


async def speeds(servers: dict[str, Served], texts: Sequence[str], repeats: int) -> list[dict[str, Any]]:
    """(b): a row for each repeat and number at once."""
    rows = []
    for repeat in range(repeats):
        for at_once in AT_ONCE:
            first = (repeat * 37 + at_once) % len(texts)
            chosen = [texts[(first + n) % len(texts)] for n in range(max(at_once, 2))]
            speed = {name: await throughput(served, chosen, at_once) for name, served in servers.items()}
            rows.append({"at_once": at_once, "repeat": repeat} | speed)
            print(json.dumps(rows[-1]), flush=True)
    return rows


async def rounds(servers: dict[str, Served], drafts: Sequence[tuple[str, str]], repeats: int) -> dict[str, list[float]]:
    """(c): tokens/s of Follower rounds, one at a time."""
    found: dict[str, list[float]] = {name: [] for name in servers}
    for repeat in range(repeats):
        chosen = [drafts[(repeat * ROUNDS + n) % len(drafts)] for n in range(ROUNDS)]
        for name, served in servers.items():
            started = time.perf_counter()
            tokens = sum([await served.refine(*one) for one in chosen])
            found[name].append(tokens / (time.perf_counter() - started))
    return found


def compared(bundle: str, answers: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """(a): of what the two servers read."""
    plain, rounded = (_weights(Settings(bundle=bundle, cpu_quantization=how)) for how in HOW)
    tokenizer, encoder = AutoTokenizer.from_pretrained(plain), PromptEncoder.open(plain)
    sequences = [
        (encoder.encode([Turn("user", prompt)]), tokenizer.encode(answer, add_special_tokens=False))
        for prompt, answer in answers
    ]
    nats = sorted(divergence(plain, rounded, [pair for pair in sequences if pair[1]]))
    at = {f"p{share}": nats[len(nats) * share // 100] for share in (50, 90, 99)}
    dtype = dtype_for(torch.cpu.get_capabilities())
    about = {"answers": len(answers), "tokens": len(nats), "dtype": "bfloat16" if dtype == "auto" else dtype}
    return about | {"mean": statistics.mean(nats)} | at


def _weights(settings: Settings) -> Path:
    return quantized(merged(open_bundle(settings), settings.cache_dir), settings, None, weight_range()).weights


def read(file: Path, limit: int) -> list[str]:
    """The prompts of the first rows."""
    opened = gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8")
    with opened as lines:
        found = [json.loads(line) for line, _ in zip(lines, range(limit), strict=False)]
    rows = [row["prompt"] if "prompt" in row else row["instruction"] for row in found]
    return [row if isinstance(row, str) else next(m["content"] for m in row if m["role"] == "user") for row in rows]


async def run(bundle: str, texts: Sequence[str], repeats: int) -> dict[str, Any]:
    for how in HOW:
        _weights(Settings(bundle=bundle, cpu_quantization=how))  # made now, so that starts are warm
    async with both(bundle) as servers:
        places = asyncio.Semaphore(16)

        async def one(text: str) -> tuple[str, str]:
            async with places:
                return text, await servers["int8"].write(text)

        answers = await asyncio.gather(*map(one, texts))
        rows = await speeds(servers, texts, repeats)
        follower = {"with speculation": await rounds(servers, answers, repeats)}
        starts = {name: served.start_s for name, served in servers.items()}
        resident = {name: served.resident_gb() for name, served in servers.items()}
    async with both(bundle, "--speculation", "off") as servers:
        follower["without"] = await rounds(servers, answers, repeats)
    return {
        "bundle": bundle,
        "rows": rows,
        "follower": follower,
        "start_s": starts,
        "resident_gb": resident,
        "kl": await asyncio.to_thread(compared, bundle, answers),
    }


def table(figures: dict[str, Any]) -> str:
    kl = figures["kl"]
    lines = [f"{figures['date']}, {figures['machine']}, `{figures['bundle']}`.", ""]
    lines += ["| tokens/s | int8 | bfloat16 | ratio | wanted |", "|---|---|---|---|---|"]
    for at_once in AT_ONCE:
        rows = [row for row in figures["rows"] if row["at_once"] == at_once]
        wanted = ">= 3" if at_once == 16 else ""
        exact, rounded = ([row[name] for row in rows] for name in NAMES)
        lines.append(_line(f"Leader, {at_once} at once", exact, rounded, wanted))
    for name, wanted in (("with speculation", ">= 3"), ("without", "")):
        exact, rounded = (figures["follower"][name][which] for which in NAMES)
        lines.append(_line(f"Follower alone, {name}", exact, rounded, wanted))
    lines += ["", "| | int8 | bfloat16 | wanted |", "|---|---|---|---|"]
    for name, key, wanted in (("warm start, s", "start_s", "<= 40"), ("resident, GB", "resident_gb", "<= 6")):
        lines.append(f"| {name} | {figures[key]['int8']:.1f} | {figures[key]['bfloat16']:.1f} | {wanted} |")
    lines += [
        "",
        f"KL to the unrounded model, in {kl['dtype']}, over {kl['tokens']} tokens of {kl['answers']} answers: ",
    ]
    lines[-1] += f"mean {kl['mean']:.4f} nats, median {kl['p50']:.4f}, 90 % {kl['p90']:.4f}, 99 % {kl['p99']:.4f}."
    return "\n".join(lines) + "\n"


def _line(name: str, exact: Sequence[float], rounded: Sequence[float], wanted: str) -> str:
    ratio = statistics.median(one / other for one, other in zip(rounded, exact, strict=True))
    return f"| {name} | {statistics.median(rounded):.1f} | {statistics.median(exact):.1f} | {ratio:.2f} | {wanted} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--name", default="int8", choices=["int8", "int8-avx2"])
    given = parser.parse_args()
    when = occasion()
    figures = when | asyncio.run(run(given.bundle, read(given.prompts, given.answers), given.repeats))
    write(given.name, figures, table(figures))


if __name__ == "__main__":
    main()
