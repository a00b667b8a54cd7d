"""What it costs to have the Follower on a vLLM server instead of in the server's own process.

    python -m benchmarks.remote [--repeats 5] [--rounds 400]

One run, systems in turns, the built-in model on the CPU. Writes benchmarks/remote.json and the tables of
docs/benchmarks.md.

    (a) tokens/s, 16 at once: the gateway before `vllm serve` / the server with its engine in process    at least 0.95
    (b) share of the full cache blocks of x + y that the Follower's first prompt finds over there         at least 0.9
    (c) what the gateway adds to a round, against an engine that answers at once: p50                     at most 5 ms

In (a) both engines have the same weights, arguments and OpenMP threads, without speculation, and stand loaded while the
other one works. In (c) a round's own time is that of the same request to the stub, sent without the gateway.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse
from transformers import AutoTokenizer

from benchmarks.process import Process, server
from benchmarks.prompts import prompts
from benchmarks.report import occasion, write
from benchmarks.serving import cached, throughput
from benchmarks.systems import SETTINGS, Ours, ours
from slhf_server.bundles.merging import merged
from slhf_server.bundles.opened import OpenBundle
from slhf_server.cli import bind
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.engine.vllm import set_cpu_environment
from slhf_server.loading.opening import open_bundle
from slhf_server.settings.server import Settings

AT_ONCE, CONTEXT = 16, 2048
CONTEXT_BYTES = 1 << 30
ARGUMENTS: dict[str, Any] = {
    "max_model_len": CONTEXT,
    "max_num_seqs": 64,
    "block_size": 32,
    "kv_cache_memory_bytes": CONTEXT_BYTES,
    "enable_chunked_prefill": False,
    "max_num_batched_tokens": CONTEXT,
}
"""Of both engines. Without chunked prefill, because `vllm serve` on a CPU dies of a seed beside it."""
FLAGS = (
    f"--served-model-name base --max-model-len {CONTEXT} --max-num-seqs 64 --block-size 32 --enforce-eager "
    f"--kv-cache-memory-bytes {CONTEXT_BYTES} --no-enable-chunked-prefill --max-num-batched-tokens {CONTEXT} "
    "--enable-prompt-tokens-details --scheduling-policy priority "
    "--distributed-executor-backend vllm.v1.executor.uniproc_executor.UniProcExecutor"
).split()
ROUNDS = 8
"""Of a request in (c); the draft is the client's."""
DRAFT = "The sky is blue because the air scatters blue light more than red light."

Row = dict[str, float]


def gateway(url: str, tokenizer: str) -> list[str]:
    """Flags of a server without an engine of its own."""
    engine = {"base": {"base_url": f"{url}/v1", "model": "base", "tokenizer": tokenizer}}
    return ["--remote-engines", json.dumps(engine), "--models", json.dumps({"refiner": {"follower": "base"}})]


def command(*flags: str) -> list[str]:
    return [str(Path(sys.executable).with_name("slhf-server")), "--log-level", "error", *flags]


@contextlib.asynccontextmanager
async def vllm_serve(bundle: OpenBundle) -> AsyncGenerator[Process, None]:
    serve = [sys.executable, str(Path(__file__).with_name("vllm_command.py")), "serve", str(bundle.weights), *FLAGS]
    async with server(serve, "/health") as process:
        yield process


async def in_turns(repeats: int, bundle: OpenBundle) -> list[Row]:
    """Tokens/s of both, and the gateway's share of cached blocks; a row for each repeat."""
    set_cpu_environment()  # vllm serve inherits it
    engine = ["--speculation", "off", *(f"--engine={name}={json.dumps(value)}" for name, value in ARGUMENTS.items())]
    tokenizer = AutoTokenizer.from_pretrained(bundle.weights)
    rows = []
    async with AsyncExitStack() as stack:
        beside = await stack.enter_async_context(ours(*engine))
        remote = await stack.enter_async_context(vllm_serve(bundle))
        door = await stack.enter_async_context(server(command(*gateway(remote.url, SETTINGS.bundle)), "/ready"))
        systems = {"in process": beside, "remote": Ours(door.url)}
        for system in systems.values():
            await system.answer("Hello.")  # warm: kernels, connections
        for repeat in range(repeats):
            texts = prompts(2 * AT_ONCE, 50, seed=repeat, tokenizer=tokenizer)
            order = list(systems) if repeat % 2 else list(reversed(systems))
            row = {name: await throughput(systems[name].answer, texts, AT_ONCE) for name in order}
            reports = systems["remote"].reports[-len(texts) :]
            rows.append(row | {"cached_share": statistics.mean(map(cached, reports))})
            print(json.dumps(rows[-1]), flush=True)
    return rows


class Asked(BaseModel):
    prompt: list[int]
    stream: bool = False
    echo: bool = False


def stub(encoder: PromptEncoder) -> FastAPI:
    """An engine that answers at once: another text each time, in one piece, so that every round is a round."""
    application, count = FastAPI(), iter(range(10**9))

    def choice(prompt: list[int], text: str, ids: list[int]) -> dict[str, Any]:
        return {"index": 0, "text": text, "token_ids": ids, "prompt_token_ids": prompt, "finish_reason": "stop"}

    @application.get("/health")
    @application.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "base", "max_model_len": CONTEXT}]}

    @application.post("/v1/completions")
    async def completions(asked: Asked) -> Response:
        if not asked.stream:  # which shows its tokenizer
            text = encoder.decode(asked.prompt) if asked.echo else "!"
            shown = {"choices": [choice(asked.prompt, text, [5])]}
            return Response(json.dumps(shown), media_type="application/json")
        text = f"Answer number {next(count)}."
        events = [{"choices": [choice(asked.prompt, text, encoder.encode_text(text))]}, {"choices": []}]
        frames = [f"data: {json.dumps(event)}\n\n" for event in events] + ["data: [DONE]\n\n"]
        return StreamingResponse(iter(frames), media_type="text/event-stream")

    return application


def serve_stub(port: int) -> None:
    encoder = PromptEncoder.open(merged(open_bundle(SETTINGS), SETTINGS.cache_dir).weights)
    settings = uvicorn.Config(stub(encoder), log_config=None, access_log=False)
    asyncio.run(uvicorn.Server(settings).serve(sockets=[bind(Settings(port=port))]))


async def added(rounds: int) -> Row:
    """Milliseconds of a round through the gateway, and of the stub's own answer; one request at a time."""
    body = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "draft": DRAFT, "rounds": ROUNDS}
    async with AsyncExitStack() as stack:
        stub_command = [sys.executable, "-m", "benchmarks.remote", "--stub"]
        engine = await stack.enter_async_context(server(stub_command, "/health"))
        door = await stack.enter_async_context(server(command(*gateway(engine.url, SETTINGS.bundle)), "/ready"))
        http = await stack.enter_async_context(httpx2.AsyncClient(timeout=60))
        through, alone = [], []
        direct = {"prompt": list(range(100)), "stream": True}
        for _ in range(rounds // ROUNDS + 5):
            started = time.perf_counter()
            answer = await http.post(f"{door.url}/v1/refine", json=body)
            through.append((time.perf_counter() - started) * 1e3 / ROUNDS)
            assert answer.raise_for_status().json()["refinement"]["rounds_run"] == ROUNDS
            for _ in range(ROUNDS):
                started = time.perf_counter()
                (await http.post(f"{engine.url}/v1/completions", json=direct)).raise_for_status()
                alone.append((time.perf_counter() - started) * 1e3)
    return {"round_ms": statistics.median(through[5:]), "stub_ms": statistics.median(alone[5 * ROUNDS :])}


def table(figures: dict[str, Any]) -> str:
    rows, round_ = figures["rows"], figures["round"]
    ratio = statistics.median(row["remote"] / row["in process"] for row in rows)
    speeds = {name: statistics.median(row[name] for row in rows) for name in ("in process", "remote")}
    more = round_["round_ms"] - round_["stub_ms"]
    share = statistics.median(row["cached_share"] for row in rows)
    lines = [
        f"{figures['date']}, {figures['machine']}.",
        "",
        "| a remote Follower | measured | wanted |",
        "|---|---|---|",
        f"| (a) tokens/s, 16 at once: remote / in process | {speeds['remote']:.0f} / {speeds['in process']:.0f} = "
        f"{ratio:.2f} | >= 0.95 |",
        f"| (b) share of cache blocks found | {share:.2f} | >= 0.9 |",
        f"| (c) added to a round, p50 | {more:.1f} ms ({round_['round_ms']:.1f} less the engine's "
        f"{round_['stub_ms']:.1f}) | <= 5 ms |",
        "",
    ]
    return "\n".join(lines)


async def run(repeats: int, rounds: int) -> dict[str, Any]:
    figures = occasion()
    bundle = merged(open_bundle(SETTINGS), SETTINGS.cache_dir)
    return figures | {"round": await added(rounds), "rows": await in_turns(repeats, bundle)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=400, help="of (c)")
    parser.add_argument("--stub", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.stub:
        serve_stub(asked.port)
        return
    figures = asyncio.run(run(asked.repeats, asked.rounds))
    write("remote", figures, table(figures))


if __name__ == "__main__":
    main()
