"""The real server: `slhf-server` in its own process, real vLLM on this machine's device, real weights."""

import asyncio
import contextlib
import gc
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client import CollectorRegistry

from slhf_server.builtin.catalogue import TRAINED
from slhf_server.bundles.quantization import quantized
from slhf_server.engine.cpu import int8_obstacle, weight_range
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.engine.vllm import VLLMEngine
from slhf_server.loading.opening import open_bundle
from slhf_server.models.base import Chunk, SamplingParams, Turn
from slhf_server.models.judge import Verdict
from slhf_server.models.judges.kinds import open_judges
from slhf_server.models.upstream.counters import UpstreamMetrics
from slhf_server.observability.metrics import LATENCY
from slhf_server.settings.judging import JudgeSettings
from slhf_server.settings.server import Settings

START_S = 240
EXACT: dict[str, Any] = {
    "dtype": "float32",  # in bfloat16 the shape of a batch alone moves probabilities by some per cent
    "max_model_len": 512,
    "max_num_seqs": 64,
    "kv_cache_memory_bytes": 1 << 30,
    # No batch is too large to guess, so that every sample is a speculated one.
    "speculative_config": {
        "method": "ngram",
        "num_speculative_tokens": 5,
        "prompt_lookup_max": 4,
        "prompt_lookup_min": 2,
        "num_speculative_tokens_per_batch_size": [[1, 1024, 5]],
    },
}
Ask = tuple[Sequence[Turn], SamplingParams]

SMALL = {"SLHF_BUNDLE": f"builtin:{TRAINED}"}
"""What a server without `--bundle` serves here, whatever the default is: no test fetches a gigabyte."""


@dataclass
class LiveServer:
    process: subprocess.Popen[bytes]
    log: Path
    url: str = ""

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        page = httpx2.get(f"{self.url}/metrics", timeout=30).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if re.match(rf"{name}[{{ ]", line))

    def processes(self) -> set[int]:
        """The server's process and all its descendants."""
        family = {self.process.pid}
        for _ in range(5):
            for stat in Path("/proc").glob("[0-9]*/stat"):
                with contextlib.suppress(OSError):
                    if int(stat.read_text().rsplit(")", 1)[1].split()[1]) in family:
                        family.add(int(stat.parent.name))
        return family


@contextlib.contextmanager
def live_server(tmp: Path, *flags: str) -> Iterator[LiveServer]:
    """Start `slhf-server` with these flags on a free port, wait until it is ready, and end it."""
    log = tmp / "server.log"
    command = [str(Path(sys.executable).with_name("slhf-server")), "--port", "0", *flags]
    environ = os.environ | SMALL
    with log.open("wb") as file:
        server = LiveServer(subprocess.Popen(command, env=environ, stdout=file, stderr=subprocess.STDOUT), log)
    try:
        wait_until_ready(server)
        yield server
    finally:
        server.process.send_signal(signal.SIGTERM)
        try:
            server.process.wait(60)
        except subprocess.TimeoutExpired:
            server.process.kill()
            raise


def wait_until_ready(server: LiveServer) -> None:
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up:
        if server.process.poll() is not None:
            raise AssertionError(f"the server ended:\n{server.log.read_text()}")
        if found := re.search(r"listening on (http://[^\s\"]+)", server.log.read_text()):
            server.url = found[1]
            with contextlib.suppress(httpx2.TransportError):
                if httpx2.get(f"{server.url}/ready").status_code == 200:
                    return
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(0.2)
    raise AssertionError(f"not ready within {START_S} s:\n{server.log.read_text()}")


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The small built-in bundle as `scripts/serve` serves it; started once per session."""
    with live_server(tmp_path_factory.mktemp("live")) as server:
        yield server


class ExactEngine:
    """The engine in this process, in float32 and always guessing: to be compared with the model itself."""

    def __init__(self, runner: asyncio.Runner, engine: VLLMEngine) -> None:
        self._runner = runner
        self._engine = engine
        self._asked = 0

    def streams(self, asks: Sequence[Ask], *, deltas: bool = False) -> list[list[Chunk]]:
        """The chunks of each completion; all run at once."""

        async def together() -> list[list[Chunk]]:
            return list(await asyncio.gather(*(self._stream(ask, deltas) for ask in asks)))

        return self._runner.run(together())

    def completions(self, asks: Sequence[Ask]) -> list[Chunk]:
        """One chunk for each completion."""
        return [chunks[-1] for chunks in self.streams(asks)]

    def complete(self, turns: Sequence[Turn], sampling: SamplingParams) -> Chunk:
        return self.completions([(turns, sampling)])[0]

    @property
    def sleep_obstacle(self) -> str | None:
        return self._engine.sleep_obstacle

    def begun(self, before: Sequence[Ask], waiting: Sequence[Ask]) -> list[int]:
        """In which order the waiting ones get their first tokens, which are asked for once all others have theirs."""
        order: list[int] = []

        async def noted(number: int, ask: Ask, first: asyncio.Event) -> None:
            async for _ in self._engine.follower.stream(*ask, request_id=f"begun-{id(first)}-{number}"):
                if not first.is_set():
                    first.set()
                    order.append(number)

        async def scenario() -> list[int]:
            tasks, asked = [], 0
            for asks in (before, waiting):
                events = [asyncio.Event() for _ in asks]
                numbered = enumerate(zip(asks, events, strict=True), start=asked)
                tasks += [asyncio.create_task(noted(number, *one)) for number, one in numbered]
                asked += len(asks)
                if asks is before:
                    await asyncio.gather(*(event.wait() for event in events))
            await asyncio.gather(*tasks)
            return [number - len(before) for number in order if number >= len(before)]

        return self._runner.run(scenario())

    def verdicts(
        self, turns: Sequence[Turn], pairs: Sequence[tuple[str, str]], judge_settings: JudgeSettings | None = None
    ) -> list[Verdict]:
        """What the engine's weights as a judge say of each old and new text, one after the other."""
        metrics = UpstreamMetrics(CollectorRegistry(), LATENCY)
        judges = {"own": judge_settings or JudgeSettings(engine="own")}
        judge = open_judges(judges, {}, self._engine, metrics, contextlib.AsyncExitStack())["own"]

        async def each() -> list[Verdict]:
            said = []
            for old, new in pairs:
                self._asked += 1
                said.append(await judge.compare(turns, old, new, request_id=f"test{self._asked}-1-judge"))
            return said

        return self._runner.run(each())

    def close(self) -> None:
        self._engine.shutdown()
        del self._engine  # or what vLLM leaves behind is found when pytest has ended

    async def _stream(self, ask: Ask, deltas: bool) -> list[Chunk]:
        self._asked += 1
        return [c async for c in self._engine.follower.stream(*ask, request_id=f"test-{self._asked}", deltas=deltas)]


@contextlib.contextmanager
def exact_engine(**changes: Any) -> Iterator[ExactEngine]:
    """The untrained built-in model on an engine with EXACT's arguments; keyword arguments are other settings."""
    settings = Settings(**{"bundle": "builtin:smollm2-135m", "engine": EXACT} | changes)
    bundle = quantized(open_bundle(settings), settings, int8_obstacle(settings), weight_range())
    encoder = PromptEncoder.open(bundle.weights)
    runner = asyncio.Runner()
    engine = ExactEngine(runner, runner.run(asyncio.to_thread(lambda: VLLMEngine.load(bundle, settings, encoder))))
    yield engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # vLLM leaves zmq contexts behind
        engine.close()
        runner.close()
        gc.collect()


@pytest.fixture(scope="session")
def exact() -> Iterator[ExactEngine]:
    with exact_engine() as engine:
        yield engine
