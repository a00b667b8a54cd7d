"""A load like that of users, for a server that runs somewhere: requests arrive whether or not it keeps up (open loop).

    python -m benchmarks.load http://127.0.0.1:8000 --per-second 2 --seconds 300 --rounds 0:1,1:2,2:1 --stream 0.5

Every request is a chat. Arrivals are Poisson, and a latency counts from the moment the request was due. A request has
one of three ends:

    answered   a whole text: status 200, and a stream that ended with [DONE]
    refused    an error that says so: a client's (4xx), a full queue (429), 503 with Retry-After; --retries asks again
    lost       anything else: no connection, a broken or silent stream, another status

Prints percentiles by number of rounds, and --json writes every figure. Ends with status 1 if an answer was lost.
"""

import argparse
import asyncio
import gzip
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import httpx2

from slhf.sse import Decoder

End = Literal["answered", "refused", "lost"]
PROMPTS = (
    "Name three rivers of Europe and say where they end.",
    "Explain to a child why the sky is blue.",
    "Write a short, polite reminder about an unpaid invoice.",
    "What should I check before I buy a used bicycle?",
    "Summarise the rules of chess in five sentences.",
)
_AGAIN = (429, 503)


@dataclass(frozen=True, slots=True)
class Case:
    """One request to come."""

    prompt: str
    draft: str | None
    rounds: int
    stream: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """What became of one request. Seconds."""

    rounds: int
    end: End
    latency: float
    first_token: float | None = None
    why: str = ""
    """A status or an exception, where there was no answer."""


@dataclass(frozen=True)
class Load:
    """What is sent, and how often. `rounds` are numbers of rounds with their weights."""

    per_second: float
    seconds: float
    rounds: dict[int, float]
    stream: float = 0.0  # share
    max_tokens: int = 64
    model: str | None = None
    retries: int = 0
    timeout_s: float = 600.0
    seed: int = 0

    def cases(self, texts: Sequence[tuple[str, str | None]]) -> Iterator[tuple[float, Case]]:
        """When each request is due, in seconds from the start."""
        draw, due = random.Random(self.seed), 0.0
        while (due := due + draw.expovariate(self.per_second)) < self.seconds:
            prompt, draft = draw.choice(texts)
            [rounds] = draw.choices(list(self.rounds), list(self.rounds.values()))
            yield due, Case(prompt, draft, rounds, draw.random() < self.stream)

    def body(self, case: Case) -> dict[str, Any]:
        refine = {"rounds": case.rounds} | ({"draft": case.draft} if case.draft else {})
        chat: dict[str, Any] = {"messages": [{"role": "user", "content": case.prompt}], "refine": refine}
        chat |= {"max_tokens": self.max_tokens, "stream": case.stream}
        return chat if self.model is None else chat | {"model": self.model}


class Lost(Exception):
    """No answer, and no word why."""


async def run(url: str, load: Load, texts: Sequence[tuple[str, str | None]], key: str | None = None) -> list[Sample]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx2.AsyncClient(base_url=url, timeout=load.timeout_s, limits=limits, headers=headers) as http:
        started = time.perf_counter()

        async def arrive(due: float, case: Case) -> Sample:
            await asyncio.sleep(started + due - time.perf_counter())
            return await _ask(http, load, case, started + due)

        return await asyncio.gather(*(arrive(due, case) for due, case in load.cases(texts)))


async def _ask(http: httpx2.AsyncClient, load: Load, case: Case, due: float) -> Sample:
    for attempts_left in range(load.retries, -1, -1):
        end, first, why, wait = await _attempt(http, load.body(case))
        if end == "answered" or not attempts_left or (end == "refused" and not wait):
            break
        await asyncio.sleep(wait)
    latency = time.perf_counter() - due
    return Sample(case.rounds, end, latency, None if first is None else first - due, why)


async def _attempt(http: httpx2.AsyncClient, body: dict[str, Any]) -> tuple[End, float | None, str, float]:
    """How it ended, the moment of the first token, why there was none, and the seconds to wait before asking again."""
    try:
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            status, wait = response.status_code, float(response.headers.get("retry-after", 0))
            if status == 200:
                return "answered", await _read(response, body["stream"]), "", 0.0
            refused = 400 <= status < 500 or (status == 503 and wait > 0)
            return ("refused" if refused else "lost"), None, str(status), wait if status in _AGAIN else 0.0
    except (httpx2.TransportError, Lost) as exc:
        return "lost", None, type(exc).__name__, 0.0


async def _read(response: httpx2.Response, stream: bool) -> float | None:
    """To the end; the moment of a stream's first piece. Raises Lost for a stream that ends before its end."""
    if not stream:
        await response.aread()
        return None
    decoder, first, last = Decoder(), None, ""
    async for chunk in response.aiter_bytes():
        for event in decoder.feed(chunk):
            last = event.data
            if first is None and _has_text(last):
                first = time.perf_counter()
    if last != "[DONE]":
        raise Lost
    return first


def _has_text(data: str) -> bool:
    choices = [] if data == "[DONE]" else json.loads(data).get("choices", [])
    return any(choice["delta"].get("content") for choice in choices)


def report(samples: Sequence[Sample], load: Load) -> dict[str, Any]:
    """Counts, and percentiles in seconds by number of rounds."""
    answered = [sample for sample in samples if sample.end == "answered"]
    groups = {str(rounds): [s for s in answered if s.rounds == rounds] for rounds in sorted(load.rounds)}
    return {
        "load": asdict(load),
        "sent": len(samples),
        **{end: sum(sample.end == end for sample in samples) for end in ("answered", "refused", "lost")},
        "why": {why: sum(s.why == why for s in samples) for why in sorted({s.why for s in samples if s.why})},
        "rounds": {
            rounds: {
                "answered": len(group),
                "latency": percentiles([sample.latency for sample in group]),
                "first_token": percentiles([s.first_token for s in group if s.first_token is not None]),
            }
            for rounds, group in {**groups, "all": answered}.items()
        },
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Of none, none."""
    if not values:
        return {}
    cuts = statistics.quantiles([*values, *values[:1]] if len(values) == 1 else values, n=100, method="inclusive")
    return {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(values)}


def table(figures: dict[str, Any]) -> str:
    lines = ["| rounds | answered | latency p50, p95, p99, max | first token p50, p95, p99, max |", "|---" * 4 + "|"]
    for rounds, group in figures["rounds"].items():
        cells = (", ".join(f"{value:.2f}" for value in group[name].values()) for name in ("latency", "first_token"))
        lines.append(f"| {rounds} | {group['answered']} | {' | '.join(cells)} |")
    ends = ", ".join(f"{figures[end]} {end}" for end in ("answered", "refused", "lost"))
    why = ", ".join(f"{count} x {name}" for name, count in figures["why"].items())
    return "\n".join([*lines, "", f"{figures['sent']} sent: {ends}{f' ({why})' if why else ''}. Seconds."])


def texts_of(file: Path | None) -> list[tuple[str, str | None]]:
    """Prompts with their drafts, from JSON lines (.gz too)."""
    if file is None:
        return [(prompt, None) for prompt in PROMPTS]
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    records = [json.loads(line) for line in content.splitlines() if line.strip()]
    return [(record["prompt"], record.get("draft")) for record in records]


def weights(text: str) -> dict[int, float]:
    """ "0:1,2:3": three times as many with two rounds as with none; "1" alone is one round always."""
    pairs = (part.partition(":") for part in text.split(","))
    return {int(rounds): float(weight or 1) for rounds, _, weight in pairs}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.splitlines()[0])
    parser.add_argument("url", help="of the server, without /v1")
    parser.add_argument("--per-second", type=float, default=1.0, help="mean of the arrivals")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long requests arrive")
    parser.add_argument("--rounds", type=weights, default="1", help="numbers of rounds and weights: 0:1,1:2,2:1")
    parser.add_argument("--stream", type=float, default=0.0, help="share of streamed requests, 0 to 1")
    parser.add_argument("--max-tokens", type=int, default=64, help="of each round")
    parser.add_argument("--model", help="a served model; else the server's first")
    parser.add_argument("--retries", type=int, default=0, help="after 429, 503 and lost answers")
    parser.add_argument("--timeout-s", type=float, default=600.0, help="without a byte from the server")
    parser.add_argument("--seed", type=int, default=0, help="of arrivals and choices")
    parser.add_argument("--drafts", type=Path, help="JSON lines with prompt and, if you like, draft")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = vars(parser.parse_args(arguments))
    url, drafts, out = given.pop("url"), given.pop("drafts"), given.pop("json")
    load = Load(**given)
    key = os.environ.get("SLHF_API_KEY")
    figures = report(asyncio.run(run(url, load, texts_of(drafts), key)), load)
    if out is not None:
        out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(table(figures))
    return 1 if figures["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
