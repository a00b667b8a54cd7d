"""The systems that benchmarks/serving.py compares, behind one method: draft an answer, then refine it twice.

A prompt's seeds are its own, and the server's and the bare engine's rounds have the same: how many guesses of a draft
come true depends on the text, so that the speeds of two other texts differ by a half.
"""

import asyncio
import contextlib
import re
import sys
import zlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Protocol

import httpx2
import openai
from transformers import AutoTokenizer
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from benchmarks.process import server
from slhf import FOLLOWER_TURN
from slhf_server.builtin.catalogue import TRAINED
from slhf_server.bundles.merging import merged
from slhf_server.bundles.opened import OpenBundle
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.engine.vllm import engine_arguments, set_cpu_environment
from slhf_server.loading.opening import open_bundle
from slhf_server.models.base import Turn
from slhf_server.refinement.seeds import seed_of
from slhf_server.settings.server import Settings

SETTINGS = Settings(bundle=f"builtin:{TRAINED}")
"""The small bundle, whatever is served by default: it writes no answers of its own, and vLLM can be asked the same."""
ROUNDS = 2
TOKENS = 64  # of each round; min_tokens = max_tokens, so that no answer ends early
SAMPLING: dict[str, Any] = {"temperature": 0.7, "top_p": 1.0, "min_tokens": TOKENS, "max_tokens": TOKENS}


class System(Protocol):
    name: str

    async def answer(self, prompt: str) -> None:
        """A draft and ROUNDS refinements, TOKENS tokens each."""


def _seed(prompt: str) -> int:
    return zlib.crc32(prompt.encode())


class Ours:
    """`slhf-server` over HTTP; one request does it all."""

    name = "slhf-server"

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx2.AsyncClient(timeout=600, limits=httpx2.Limits(max_connections=None))
        self.reports: list[dict[str, Any]] = []

    async def answer(self, prompt: str) -> None:
        body = {"messages": [{"role": "user", "content": prompt}], "refine": {"rounds": ROUNDS}, **SAMPLING}
        body["seed"] = _seed(prompt)
        answer = await self._http.post(f"{self.url}/v1/chat/completions", json=body)
        answer.raise_for_status()
        self.reports.append(answer.json()["refinement"])

    async def engine_seconds(self) -> float:
        """Sum over all completions of vLLM's own end-to-end time."""
        page = (await self._http.get(f"{self.url}/metrics")).text
        found = re.search(r"^vllm:e2e_request_latency_seconds_sum\{.*\} (\S+)$", page, re.MULTILINE)
        return float(found[1]) if found else 0.0


class PlainVLLM:
    """`vllm serve` as it comes, and a client that makes one OpenAI call for each round."""

    name = "vllm serve"

    def __init__(self, url: str) -> None:
        self._sdk = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=600)

    async def answer(self, prompt: str) -> None:
        messages: list[Any] = [{"role": "user", "content": prompt}]
        sampling = {key: value for key, value in SAMPLING.items() if key != "min_tokens"}
        turns = messages
        for _ in range(ROUNDS + 1):
            answer = await self._sdk.chat.completions.create(
                model="peer", messages=turns, extra_body={"min_tokens": TOKENS}, **sampling
            )
            draft = {"role": "assistant", "content": answer.choices[0].message.content or ""}
            turns = [*messages, draft, {"role": "user", "content": FOLLOWER_TURN}]


class BareEngine:
    """The same engine, arguments and prompts as the server's, driven in this process without HTTP."""

    name = "bare engine"

    def __init__(self, llm: AsyncLLM, bundle: OpenBundle) -> None:
        self.llm = llm
        self.encoder = PromptEncoder(AutoTokenizer.from_pretrained(bundle.weights))
        self._count = 0

    async def answer(self, prompt: str) -> None:
        turns = [Turn("user", prompt)]
        for number in range(ROUNDS + 1):
            seed = seed_of(_seed(prompt), 0, number)
            text, ids = await self.complete(self.encoder.encode(turns), **SAMPLING, seed=seed)
            draft = Turn("assistant", text, self.encoder.faithful(ids, text))
            turns = [Turn("user", prompt), draft, Turn("user", FOLLOWER_TURN)]

    async def complete(self, ids: list[int], **sampling: Any) -> tuple[str, list[int]]:
        self._count += 1
        params = SamplingParams(**sampling, output_kind=RequestOutputKind.FINAL_ONLY)
        async for output in self.llm.generate(tokens_input(ids), params, f"bare-{self._count}"):
            last = output.outputs[0]
        return last.text, list(last.token_ids)


@contextlib.asynccontextmanager
async def ours(*flags: str) -> AsyncGenerator[Ours, None]:
    command = [str(Path(sys.executable).with_name("slhf-server")), "--bundle", SETTINGS.bundle, *flags]
    async with server(command, "/ready") as process:
        yield Ours(process.url)


@contextlib.asynccontextmanager
async def plain_vllm(bundle: OpenBundle) -> AsyncGenerator[PlainVLLM, None]:
    serve = ["serve", str(bundle.weights), "--served-model-name", "peer", "--kv-cache-memory-bytes", str(2 << 30)]
    command = [sys.executable, str(Path(__file__).with_name("vllm_command.py")), *serve]
    async with server(command, "/health") as process:
        yield PlainVLLM(process.url)


@contextlib.asynccontextmanager
async def bare_engine(**engine: Any) -> AsyncGenerator[BareEngine, None]:
    """An engine in this process; keyword arguments are vLLM's and replace the server's."""
    bundle = merged(open_bundle(SETTINGS), SETTINGS.cache_dir)
    set_cpu_environment()
    arguments = {
        key: value for key, value in (engine_arguments(bundle, SETTINGS) | engine).items() if value is not None
    }
    config = AsyncEngineArgs(**arguments).create_engine_config()
    llm = await asyncio.to_thread(AsyncLLM.from_vllm_config, config)
    try:
        yield BareEngine(llm, bundle)
    finally:
        llm.shutdown(timeout=15)
