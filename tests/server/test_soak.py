"""10,000 requests of every kind against the server's process: none is lost, doubled, miscounted or left behind."""

import asyncio
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

AT_ONCE = 64
Endpoint = Literal["chat", "refine"]
PATHS: dict[Endpoint, str] = {"chat": "/v1/chat/completions", "refine": "/v1/refine"}
SHARES = {
    "ok": 70,
    "keeps_draft": 8,
    "fails": 6,
    "cut": 3,
    "bad_key": 3,
    "bad_model": 3,
    "bad_json": 2,
    "never_drafted": 2,
    "never_refined": 3,
}
"""Kinds of requests (soak_server.py) in percent; the last two are abandoned by their client."""
ABANDONED = ("never_drafted", "never_refined")
ERRORS = {
    "fails": "engine_error",
    "cut": "engine_error",
    "bad_key": "invalid_request_error",
    "bad_model": "model_not_found",
    "bad_json": "invalid_request_error",
}
MISTAKES: dict[str, dict[str, Any]] = {"bad_key": {"surprise": 1}, "bad_model": {"model": "nobody"}}
REFUSED = ("bad_key", "bad_model", "bad_json")  # before they enter the queue
GROWTH_MB = 10.0  # measured: 1; a Job left behind by each request would be 16


@dataclass(frozen=True, slots=True)
class Ask:
    kind: str
    endpoint: Endpoint
    stream: bool
    unique: str
    patience: float
    """Seconds until a client that gets no answer goes away."""

    @property
    def path(self) -> str:
        return PATHS[self.endpoint]

    @property
    def body(self) -> bytes:
        question = f"{self.kind} {self.unique}"
        asked: dict[str, Any] = {"stream": self.stream}
        if self.endpoint == "chat":
            asked |= {"messages": [{"role": "user", "content": question}]}
        else:
            asked |= {"prompt": question}
        if self.kind == "cut":
            asked |= {"refine": {"on_error": "fail"}} if self.endpoint == "chat" else {"on_error": "fail"}
        asked |= MISTAKES.get(self.kind, {})
        return json.dumps(asked).encode()[: -1 if self.kind == "bad_json" else None]

    @property
    def expected(self) -> str:
        """The answer's text, or the error's code."""
        return ERRORS.get(self.kind) or f"{'draft' if self.kind == 'keeps_draft' else 'better'} {self.unique}"


@dataclass(slots=True)
class Seen:
    """What the clients saw, to be compared with what the server counted."""

    success: Counter[str] = field(default_factory=Counter)
    """By endpoint."""
    failure: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By endpoint and error."""
    refused: int = 0
    left: Counter[str] = field(default_factory=Counter)
    """Abandoned, by kind."""
    wrong: list[tuple[Ask, str]] = field(default_factory=list)

    @property
    def answered(self) -> int:
        return self.success.total() + self.failure.total()

    def note(self, ask: Ask, text: str) -> None:
        if text != ask.expected:
            self.wrong.append((ask, text))
        elif ask.kind in ERRORS:
            self.failure[ask.endpoint, text] += 1
            self.refused += ask.kind in REFUSED
        else:
            self.success[ask.endpoint] += 1


def asks(count: int, seed: int, kinds: Iterable[str] = SHARES) -> list[Ask]:
    draw, kinds = random.Random(seed), list(kinds)
    chosen = draw.choices(kinds, [SHARES[kind] for kind in kinds], k=count)
    endpoints: tuple[Endpoint, ...] = ("chat", "refine")
    return [
        Ask(
            kind,
            draw.choice(endpoints),
            kind == "never_refined" or draw.random() < 0.5,
            f"{draw.getrandbits(64):016x}",
            draw.random() * 0.05,
        )
        for kind in chosen
    ]


async def answer(http: httpx2.AsyncClient, ask: Ask) -> str:
    """The text that came back, or the error's code; for a stream put together from its pieces."""
    headers = {"Content-Type": "application/json"}
    async with http.stream("POST", ask.path, content=ask.body, headers=headers) as response:
        content = (await response.aread()).decode()
    if not response.headers["content-type"].startswith("text/event-stream"):
        return _text(json.loads(content))
    frames = [line.removeprefix("data: ") for line in content.splitlines() if line.startswith("data: ")]
    done = frames[-1] == "[DONE]"
    events = [json.loads(frame) for frame in frames[: -1 if done else None]]
    if "error" in events[-1]:
        return _text(events[-1])
    if ask.endpoint == "refine":
        return _text(events[-1])
    assert done, "a chat stream without an error ends with [DONE]"
    return "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])


def _text(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return str(answer["error"]["code"] or answer["error"]["type"])
    return str(answer["choices"][0]["message"]["content"] if "choices" in answer else answer["output"])


async def leave(port: int, ask: Ask) -> None:
    """Go away: in the middle of the stream, or at a moment that is as likely before the answer as after its start."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {ask.path} HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(ask.body)}\r\n\r\n".encode() + ask.body)
    if ask.kind == "never_refined":
        await reader.readuntil(b"word")
    else:
        with suppress(TimeoutError):
            async with asyncio.timeout(ask.patience):
                await reader.readuntil(b"word")
    writer.close()
    await writer.wait_closed()


async def crowd(port: int, seen: Seen, wanted: list[Ask]) -> None:
    """AT_ONCE clients share the requests."""
    left = iter(wanted)
    # An idle connection is dropped before the server, after 5 s, closes it: the next request on it could fail.
    limits = httpx2.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE, keepalive_expiry=1)
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=120) as http:

        async def client() -> None:
            for ask in left:
                if ask.kind in ABANDONED:
                    await leave(port, ask)
                    seen.left[ask.kind] += 1
                else:
                    seen.note(ask, await answer(http, ask))

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(client())


class SoakServer:
    """The process of soak_server.py."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    async def report(self) -> dict[str, float]:
        self._process.send_signal(signal.SIGUSR1)
        assert self._process.stdout is not None
        facts: dict[str, float] = json.loads(await self._process.stdout.readline())
        return facts

    async def at_rest(self, tasks: float) -> dict[str, float]:
        """Its report once no more than these tasks are left; work whose client has gone ends a moment later."""
        for _ in range(500):
            facts = await self.report()
            if facts["tasks"] <= tasks and not facts["running"]:
                return facts
            await asyncio.sleep(0.02)
        raise AssertionError(f"work is left behind: {facts}")

    async def counted(self) -> dict[str, Counter[tuple[str, ...]]]:
        """Samples of /metrics by name, then by the values of their labels (without the model's name)."""
        async with httpx2.AsyncClient() as http:
            page = (await http.get(f"http://127.0.0.1:{self.port}/metrics", timeout=30)).text
        found: dict[str, Counter[tuple[str, ...]]] = {}
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                key = tuple(sample.labels[name] for name in ("endpoint", "error_type") if name in sample.labels)
                found.setdefault(sample.name, Counter())[key] += int(sample.value)
        return found


@asynccontextmanager
async def soak_server(log: Path) -> AsyncGenerator[SoakServer, None]:
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.server.soak_server", stdout=asyncio.subprocess.PIPE, stderr=errors
        )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            port = int(await process.stdout.readline())
        yield SoakServer(process, port)
    finally:
        process.terminate()
        await process.wait()


def agree(counted: dict[str, Counter[tuple[str, ...]]], seen: Seen) -> None:
    """What the server counted is what its clients saw; only of those who went away it may not know all."""
    assert counted["slhf_request_success_total"] == {(endpoint,): n for endpoint, n in seen.success.items()}
    assert counted["slhf_request_failure_total"] == dict(seen.failure)
    assert counted["slhf_overhead_seconds_count"].total() == seen.success.total()
    queued = counted["slhf_request_queue_time_seconds_count"].total()
    certain = seen.answered - seen.refused + seen.left["never_refined"]
    assert certain <= queued <= certain + seen.left["never_drafted"]
    assert counted["slhf_num_requests_running"].total() == counted["slhf_num_requests_waiting"].total() == 0


def test_ten_thousand_mixed_requests_lose_double_and_leave_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        seen, log = Seen(), tmp_path / "log"
        async with soak_server(log) as server:
            tasks = (await server.report())["tasks"]
            await crowd(server.port, seen, asks(1_000, seed=0))
            await crowd(server.port, seen, asks(500, seed=3, kinds=ABANDONED))  # their long answers set a peak
            warm = await server.at_rest(tasks)
            await crowd(server.port, seen, asks(10_000, seed=1))
            after = await server.at_rest(tasks)
            await crowd(server.port, seen, asks(500, seed=2, kinds=ABANDONED))
            abandoned = await server.at_rest(tasks)
            counted = await server.counted()
        assert seen.wrong == []
        assert seen.answered + seen.left.total() == 12_000
        agree(counted, seen)
        assert after["rss_mb"] < warm["rss_mb"] + GROWTH_MB
        assert abandoned["rss_mb"] < after["rss_mb"] + GROWTH_MB
        assert log.read_text() == ""
        print(warm, after, abandoned, seen.success, seen.failure, seen.left)  # noqa: T201

    asyncio.run(scenario())
