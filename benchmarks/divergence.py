"""How far one engine's distributions are from another's, token by token of given answers: KL in nats.

Both models have the same head, which int8 leaves as it is. So what is kept of each engine is what goes into its head, a
few kilobytes a token, and the distributions are made of that afterwards. Each engine runs in a process of its own.
"""

import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

Sequences = Sequence[tuple[list[int], list[int]]]
"""Prompt and answer, as token ids."""
_AT_ONCE = 64  # positions whose distributions are made at once
_HEADS = ("lm_head.weight", "model.embed_tokens.weight")


def divergence(exact: Path, rounded: Path, sequences: Sequences) -> list[float]:
    """KL(exact || rounded) before each token of each answer, both engines having read what stands before it."""
    first, second = (_apart(weights, sequences) for weights in (exact, rounded))
    head = head_of(exact).float()
    found: list[float] = []
    for one, other in zip(first, second, strict=True):
        for start in range(0, len(one), _AT_ONCE):
            rows = slice(start, start + _AT_ONCE)
            due, seen = ((states[rows].float() @ head.T).log_softmax(-1) for states in (one, other))
            found += (due.exp() * (due - seen)).sum(-1).tolist()
    return found


def _apart(weights: Path, sequences: Sequences) -> list[torch.Tensor]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return [torch.tensor(states) for states in process.submit(_states, weights, sequences).result()]


def _states(weights: Path, sequences: Sequences) -> list[Any]:
    """What the engine's head is given before each token of each answer: numpy arrays (tokens, hidden), float32."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # or the engine is out of reach
    from vllm import LLM, SamplingParams
    from vllm.inputs import tokens_input

    from slhf_server.engine.cpu import dtype_for

    longest = max(len(prompt) + len(answer) for prompt, answer in sequences)
    llm = LLM(
        str(weights),
        dtype=dtype_for(torch.cpu.get_capabilities()),
        worker_extension_cls="slhf_server.engine.repairs.CpuRepairs",  # the kernel for CPUs without VNNI
        max_model_len=longest + 1,
        max_num_seqs=1,
        max_num_batched_tokens=max(longest + 1, 2048),
        enforce_eager=True,
        kv_cache_memory_bytes=1 << 29,
    )
    seen: list[torch.Tensor] = []
    llm.apply_model(lambda model: _listen(model, seen))
    found = []
    for prompt, answer in sequences:
        seen.clear()
        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
        llm.generate(tokens_input([*prompt, *answer]), params, use_tqdm=False)
        (states,) = (states for states in seen if len(states) == len(prompt) + len(answer) - 1)
        found.append(states[len(prompt) - 1 :].float().numpy())
    return found


def _listen(model: Any, seen: list[torch.Tensor]) -> None:
    compute = model.compute_logits

    def listening(states: torch.Tensor) -> Any:
        seen.append(states.clone())
        return compute(states)

    model.compute_logits = listening


def head_of(weights: Path) -> torch.Tensor:
    index = weights / "model.safetensors.index.json"
    places: dict[str, str] = json.loads(index.read_bytes())["weight_map"] if index.exists() else {}
    for name in _HEADS:
        file = weights / places.get(name, "model.safetensors")
        with safe_open(file, "pt") as source:
            if name in source.keys():
                found: torch.Tensor = source.get_tensor(name)
                return found
    raise ValueError(f"{weights}: no head")
