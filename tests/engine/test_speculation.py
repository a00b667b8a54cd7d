"""The draft as speculation changes nothing but the time: the engine against the model's own probabilities.

In float32: in bfloat16 the shape of a batch alone moves probabilities by some per cent, with and without speculation.
"""

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm.platforms import current_platform

from slhf_server.bundles import open_bundle
from slhf_server.engine import VLLMEngine
from slhf_server.model import Chunk, Sampling, Turn
from slhf_server.settings import Settings
from tests.engine.exactness import chi_square_p, exact_probabilities

pytestmark = [
    pytest.mark.filterwarnings("ignore:Unclosed context:ResourceWarning"),  # vLLM leaves one at shutdown
    pytest.mark.filterwarnings("ignore:.*zmq.Context:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.engine,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not current_platform.is_cpu(), reason="speculation is on by default on the CPU alone"),
]
VOCAB = 49152
SAMPLES = 256
TOKENS = 4
FILTERS = [(1.0, VOCAB), (0.9, 50)]  # top_p, top_k
# The answer copies the draft from its second token on, so that every later position is guessed.
DRAFT = "The river rises in the high hills and flows slowly towards the sea."
REPEATED = [
    DRAFT,
    "Paris is the capital of France, and it lies on the river Seine.",
    "To boil an egg, put it into boiling water, wait eight minutes, and cool it under cold water.",
    "1. Drink water. 2. Sleep eight hours. 3. Walk every day. 4. Eat fruit and vegetables.",
]
ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 512,
    "max_num_seqs": 64,
    "kv_cache_memory_bytes": 1 << 30,
    # No batch is too large to guess, so that every sample is a speculated one.
    "speculative_config": {
        "method": "ngram",
        "num_speculative_tokens": 5,
        "prompt_lookup_max": 4,
        "prompt_lookup_min": 2,
    },
}


def refining(draft: str) -> list[Turn]:
    return [Turn("user", "Answer."), Turn("assistant", draft), Turn("user", "Repeat the previous answer exactly.")]


@dataclass
class Observed:
    """What the speculating engine said."""

    greedy: list[Chunk]
    sampled: list[list[Chunk]]  # by FILTERS


@pytest.fixture(scope="module")
def observed() -> Observed:
    return asyncio.run(observe())


async def observe() -> Observed:
    settings = Settings(engine=ENGINE)
    engine = await asyncio.to_thread(lambda: VLLMEngine.load(open_bundle(settings), settings))

    async def complete(turns: list[Turn], sampling: Sampling, name: str) -> Chunk:
        return [c async for c in engine.follower.stream(turns, sampling, request_id=name, deltas=False)][-1]

    try:
        greedy = [await complete(refining(d), Sampling(temperature=0, max_tokens=32), d) for d in REPEATED]
        sampled = []
        for top_p, top_k in FILTERS:
            settings_of = Sampling(temperature=0.9, top_p=top_p, top_k=top_k % VOCAB, max_tokens=TOKENS)
            ask = (complete(refining(DRAFT), settings_of, f"{top_p}-{i}") for i in range(SAMPLES))
            sampled.append(list(await asyncio.gather(*ask)))
    finally:
        engine.shutdown()
    return Observed(greedy, sampled)


@pytest.fixture(scope="module")
def reference(builtin: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(builtin, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer(builtin: Path) -> Any:
    return AutoTokenizer.from_pretrained(builtin)


def prompt(tokenizer: Any, draft: str) -> list[int]:
    messages = [{"role": turn.role, "content": turn.text} for turn in refining(draft)]
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


def test_at_temperature_zero_the_text_is_the_models_own_to_the_token(
    observed: Observed, reference: Any, tokenizer: Any
) -> None:
    assert sum(chunk.accepted_tokens for chunk in observed.greedy) > 20  # or nothing was guessed
    for draft, chunk in zip(REPEATED, observed.greedy, strict=True):
        ids = torch.tensor([prompt(tokenizer, draft)])
        own = reference.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=32)
        assert chunk.text == tokenizer.decode(own[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("index", range(len(FILTERS)))
def test_sampled_tokens_follow_the_models_distribution(
    observed: Observed, reference: Any, tokenizer: Any, index: int
) -> None:
    chunks = observed.sampled[index]
    assert sum(chunk.accepted_tokens + chunk.rejected_tokens for chunk in chunks) > SAMPLES
    following: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for chunk in chunks:
        tokens = chunk.token_ids or ()
        for position, token in enumerate(tokens):
            following[tokens[:position]].append(token)
    tested = 0
    for prefix, tokens_seen in following.items():
        if len(tokens_seen) >= 80:
            with torch.no_grad():
                logits = reference(torch.tensor([[*prompt(tokenizer, DRAFT), *prefix]])).logits[0, -1]
            counts = torch.bincount(torch.tensor(tokens_seen), minlength=VOCAB)
            assert chi_square_p(counts, exact_probabilities(logits, 0.9, *FILTERS[index])) > 1e-5, prefix
            tested += 1
    assert tested >= 3
