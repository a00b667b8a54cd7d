"""Serving speed on the built-in model, as ratios of systems that run in turn in the same run.

    python -m benchmarks.serving [--repeats 3]

Every answer is a draft and 2 refinements of 64 tokens each, none ended early. Systems take turns, so that a drift of
the machine's speed meets all of them; a ratio is the median over the repeats. One answer at a time has `ALONE` times as
many, because there two measurements of the same thing can differ by a third. Writes benchmarks/serving.json and the
tables of docs/benchmarks.md.

    (a) wall time of a request / the engine's own time for its completions, one at a time         at most 1.05
    (b) throughput / the same loop on the bare engine                                              at least 0.95
    (c) throughput / three OpenAI calls against plain `vllm serve`                                 at least 1.1
    (d) share of the full cache blocks of x + y that the Follower's first prompt finds             at least 0.9
    (e) throughput / Hugging Face generate, batch 16                                               at least 3
    (f) Follower rounds at temperature 0 with the draft as speculation / without               2.0 at 1, 1.3 at 8
"""

import argparse
import asyncio
import json
import platform
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.prompts import TASKS, prompts
from benchmarks.report import serving_tables, write
from benchmarks.systems import (
    ROUNDS,
    SAMPLING,
    SETTINGS,
    TOKENS,
    BareEngine,
    Ours,
    System,
    bare_engine,
    ours,
    plain_vllm,
)
from slhf import FOLLOWER_TURN
from slhf_server.bundles.merging import merged
from slhf_server.bundles.opened import OpenBundle
from slhf_server.engine.vllm import DRAFT_SPECULATION
from slhf_server.loading.opening import open_bundle
from slhf_server.models.base import Turn

BLOCK = 32  # tokens of one cache block, as the server sets it on CPU
PER_ANSWER = TOKENS * (ROUNDS + 1)
ALONE = 4


async def throughput(answer: Callable[[str], Awaitable[None]], texts: Sequence[str], at_once: int) -> float:
    """Generated tokens per second, `at_once` answers under way at a time."""
    places = asyncio.Semaphore(at_once)

    async def one(text: str) -> None:
        async with places:
            await answer(text)

    started = time.perf_counter()
    await asyncio.gather(*(one(text) for text in texts))
    return len(texts) * PER_ANSWER / (time.perf_counter() - started)


async def compare(systems: Sequence[System], repeats: int, tokenizer: Any) -> list[dict[str, Any]]:
    """Tokens/s of each system, for each prompt length and concurrency; one row per repeat."""
    rows = []
    for length in (50, 600):
        for at_once, count in ((1, 2), (16, 16)):
            for repeat in range(repeats * ALONE if at_once == 1 else repeats):
                texts = prompts(count, length, seed=repeat, tokenizer=tokenizer)
                row: dict[str, Any] = {"prompt_tokens": length, "at_once": at_once, "repeat": repeat}
                for system in systems if repeat % 2 == 0 else reversed(systems):
                    row |= await measured(system, texts, at_once)
                rows.append(row)
                print(json.dumps(row), flush=True)
    return rows


async def measured(system: System, texts: Sequence[str], at_once: int) -> dict[str, Any]:
    """One system's throughput; for ours also the engine's share of the wall time and what the cache held."""
    if not isinstance(system, Ours):
        return {system.name: await throughput(system.answer, texts, at_once)}
    engine_before = await system.engine_seconds()
    speed = await throughput(system.answer, texts, at_once)
    engine = await system.engine_seconds() - engine_before
    reports = system.reports[-len(texts) :]
    wall = sum(report["duration_ms"] for report in reports) / 1e3
    return {
        system.name: speed,
        "wall_over_engine": wall / engine,
        "cached_share": statistics.mean(map(cached, reports)),
    }


def cached(report: dict[str, Any]) -> float:
    """Share of the full blocks of x + y that were found when the Follower was first asked."""
    draft, first = report["usage"]["draft"], report["usage"]["rounds"][0]
    known = draft["prompt_tokens"] + draft["completion_tokens"] - 1  # the last token's keys are never computed
    return float(first["prompt_tokens_details"]["cached_tokens"] / (known // BLOCK * BLOCK))


def hugging_face(bundle: OpenBundle, texts: Sequence[str]) -> float:
    """Tokens/s of transformers' generate on the same three turns, all texts in one batch."""
    tokenizer = AutoTokenizer.from_pretrained(bundle.weights, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(bundle.weights, dtype=torch.bfloat16)
    chats: list[list[dict[str, str]]] = [[{"role": "user", "content": text}] for text in texts]
    sampling = {key: SAMPLING[key] for key in ("temperature", "top_p")}
    started = time.perf_counter()
    for _ in range(ROUNDS + 1):
        batch = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, return_tensors="pt", padding=True, return_dict=True
        )
        out = model.generate(**batch, do_sample=True, min_new_tokens=TOKENS, max_new_tokens=TOKENS, **sampling)
        drafts = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        chats = [
            [chat[0], {"role": "assistant", "content": draft}, {"role": "user", "content": FOLLOWER_TURN}]
            for chat, draft in zip(chats, drafts, strict=True)
        ]
    return len(texts) * PER_ANSWER / (time.perf_counter() - started)


async def refine_greedily(engine: BareEngine, drafts: Sequence[str], at_once: int) -> tuple[float, list[str]]:
    """Follower rounds at temperature 0: tokens/s, and the texts."""
    places = asyncio.Semaphore(at_once)
    tokens = 0

    async def one(index: int, draft: str) -> str:
        nonlocal tokens
        turns = [Turn("user", TASKS[index % len(TASKS)]), Turn("assistant", draft), Turn("user", FOLLOWER_TURN)]
        async with places:
            text, ids = await engine.complete(engine.encoder.encode(turns), temperature=0.0, max_tokens=128)
        tokens += len(ids)
        return text

    started = time.perf_counter()
    texts = await asyncio.gather(*(one(i, draft) for i, draft in enumerate(drafts)))
    return tokens / (time.perf_counter() - started), list(texts)


async def speculation(repeats: int) -> dict[str, Any]:
    """(f): the same Follower rounds on two engines that differ in speculation alone, by dtype and concurrency."""
    found: dict[str, Any] = {}
    for dtype in ("bfloat16", "float32"):
        guess = {"speculative_config": DRAFT_SPECULATION, "per_request_spec_decode_metrics": None}
        plain = {"speculative_config": None, "per_request_spec_decode_metrics": None}
        async with AsyncExitStack() as stack:
            without = await stack.enter_async_context(bare_engine(dtype=dtype, **plain))
            with_it = await stack.enter_async_context(bare_engine(dtype=dtype, **guess))
            first = [
                await without.complete(without.encoder.encode([Turn("user", t)]), temperature=0.0, max_tokens=128)
                for t in TASKS
            ]
            drafts = [text for text, _ in first]
            for at_once in (1, 8):
                ratios, same = [], 0
                for _ in range(repeats):
                    slow, slow_texts = await refine_greedily(without, drafts, at_once)
                    fast, fast_texts = await refine_greedily(with_it, drafts, at_once)
                    ratios.append(fast / slow)
                    same = sum(map(str.__eq__, slow_texts, fast_texts))
                found[f"{dtype}, {at_once} at once"] = {
                    "tokens_per_s": round(fast, 1),
                    "without": round(slow, 1),
                    "ratio": round(statistics.median(ratios), 2),
                    "same_text": f"{same} of {len(drafts)}",
                }
                print(json.dumps(found[f"{dtype}, {at_once} at once"]), flush=True)
    return found


async def run(repeats: int) -> dict[str, Any]:
    bundle = merged(open_bundle(SETTINGS), SETTINGS.cache_dir)
    tokenizer = AutoTokenizer.from_pretrained(bundle.weights)
    async with AsyncExitStack() as stack:
        systems: list[System] = [await stack.enter_async_context(ours())]
        systems.append(await stack.enter_async_context(bare_engine()))
        systems.append(await stack.enter_async_context(plain_vllm(bundle)))
        for system in systems:
            await system.answer("Hello.")  # warm: kernels, connections
        rows = await compare(systems, repeats, tokenizer)
        peer = [hugging_face(bundle, prompts(16, 50, repeat, tokenizer)) for repeat in range(repeats)]
    return {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} cores",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("slhf-server", "torch", "transformers", "fastapi")}
        | {"vllm": __import__("vllm").__version__},
        "sampling": SAMPLING,
        "rows": rows,
        "hugging_face_tokens_per_s": peer,
        "speculation": await speculation(repeats),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    figures = asyncio.run(run(parser.parse_args().repeats))
    write("serving", figures, serving_tables(figures))


if __name__ == "__main__":
    main()
