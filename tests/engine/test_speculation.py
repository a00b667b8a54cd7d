"""The draft as speculation changes nothing but the time: the engine against the model's own probabilities."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm.platforms import current_platform

from slhf_server.models.base import Chunk, SamplingParams, Turn
from tests.engine.conftest import ExactEngine
from tests.engine.exactness import chi_square_p, exact_probabilities

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not current_platform.is_cpu(), reason="speculation is on by default on the CPU alone"),
]
VOCAB = 49152
SAMPLES = 256
WISHING = 160
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


def refining(draft: str) -> list[Turn]:
    """With DRAFT 65 tokens: two blocks of the prefix cache and one token to compute for each of many samples."""
    return [
        Turn("user", "Write a sentence."),
        Turn("assistant", draft),
        Turn("user", "Repeat the previous answer exactly."),
    ]


class Reference:
    """The same model in transformers, in float32."""

    def __init__(self, builtin: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(builtin, dtype=torch.float32)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(builtin)

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        template = self.tokenizer.apply_chat_template
        return list(template(messages, add_generation_prompt=True, return_dict=False))

    def logits(self, turns: Sequence[Turn], answer: Sequence[int]) -> torch.Tensor:
        """Before each token of the answer, and after its last: (tokens + 1, V)."""
        prompt = self.prompt(turns)
        with torch.no_grad():
            return torch.Tensor(self.model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 :])

    def greedy(self, turns: Sequence[Turn], tokens: int) -> str:
        ids = torch.tensor([self.prompt(turns)])
        own = self.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens)
        return str(self.tokenizer.decode(own[0, ids.shape[1] :], skip_special_tokens=True))


@pytest.fixture(scope="module")
def reference(builtin: Path) -> Reference:
    return Reference(builtin)


def guesses(chunks: Sequence[Chunk]) -> int:
    return sum(chunk.accepted_tokens + chunk.rejected_tokens for chunk in chunks)


def test_at_temperature_zero_the_text_is_the_models_own_to_the_token(exact: ExactEngine, reference: Reference) -> None:
    sampling = SamplingParams(temperature=0, max_tokens=32)
    chunks = [exact.complete(refining(draft), sampling) for draft in REPEATED]
    assert sum(chunk.accepted_tokens for chunk in chunks) > 20  # or nothing was guessed
    for draft, chunk in zip(REPEATED, chunks, strict=True):
        assert chunk.text == reference.greedy(refining(draft), 32)


@pytest.mark.parametrize(("top_p", "top_k"), FILTERS)
def test_sampled_tokens_follow_the_models_distribution(
    exact: ExactEngine, reference: Reference, top_p: float, top_k: int
) -> None:
    sampling = SamplingParams(temperature=0.9, top_p=top_p, top_k=top_k % VOCAB, max_tokens=TOKENS)
    chunks = exact.completions([(refining(DRAFT), sampling)] * SAMPLES)
    assert guesses(chunks) > SAMPLES
    assert_distributed(chunks, reference, sampling)


WISHES: list[dict[str, Any]] = [
    {"min_p": 0.005},
    {"logit_bias": {"57": 4, "904": 2}},
    {"min_p": 0.01, "logit_bias": {"788": 3, "4626": -2}},
]


def test_min_p_and_logit_bias_are_exact_in_one_batch_with_guessing_requests(
    exact: ExactEngine, reference: Reference
) -> None:
    """57 is "I" and 788 "In", rare first tokens; then 4626 " river" and 904 " high". Other samples do not pass."""
    plain = SamplingParams(temperature=0.9, top_p=1.0, max_tokens=TOKENS)
    wishing = [replace(plain, max_tokens=2, **wish) for wish in WISHES]
    chunks = exact.completions([(refining(DRAFT), sampling) for sampling in (*wishing, plain)] * WISHING)
    unwished = chunks[3::4]
    assert guesses(unwished) > WISHING
    for i, sampling in enumerate(wishing):
        assert guesses(chunks[i::4]) == 0
        assert_distributed(chunks[i::4], reference, sampling, prefixes=2)
        with pytest.raises(AssertionError):
            assert_distributed(unwished, reference, sampling, prefixes=2)


@pytest.mark.parametrize("temperature", [0, 0.9])
def test_a_bias_of_100_forces_a_token_among_guessing_requests(exact: ExactEngine, temperature: float) -> None:
    forced = SamplingParams(temperature=temperature, max_tokens=8, logit_bias={"260": 100})
    plain = SamplingParams(temperature=temperature, max_tokens=8)
    chunks = exact.completions([(refining(DRAFT), forced), (refining(DRAFT), plain)] * 4)
    assert {chunk.token_ids for chunk in chunks[0::2]} == {(260,) * 8}
    assert guesses(chunks[1::2]) > 0


def test_logprobs_are_the_models_own_for_guessed_and_sampled_tokens(exact: ExactEngine, reference: Reference) -> None:
    wishes: list[dict[str, Any]] = [{"temperature": 0}, {"temperature": 0.9}, {"temperature": 0.9, "min_p": 0.1}]
    asks = [(refining(d), SamplingParams(max_tokens=12, logprobs=3, **wish)) for d in REPEATED for wish in wishes]
    chunks = exact.completions(asks)
    assert sum(chunk.accepted_tokens for chunk in chunks) > 20
    for (turns, _), chunk in zip(asks, chunks, strict=True):
        ids = chunk.token_ids or ()
        own = reference.logits(turns, ids)[: len(ids)].log_softmax(-1)
        best = own.topk(3)
        assert len(chunk.logprobs) == len(ids) > 0
        for i, entry in enumerate(chunk.logprobs):
            assert entry.logprob == pytest.approx(float(own[i, ids[i]]), abs=2e-3)
            assert [top.logprob for top in entry.top_logprobs] == pytest.approx(best.values[i].tolist(), abs=2e-3)
            tokens = [reference.tokenizer.decode([token]) for token in best.indices[i]]
            assert [top.token for top in entry.top_logprobs] == tokens


def assert_distributed(
    chunks: Sequence[Chunk], reference: Reference, sampling: SamplingParams, prefixes: int = 3
) -> None:
    """At every prefix that many of the completions share, the next tokens are as likely as the model says."""
    following: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for chunk in chunks:
        tokens = chunk.token_ids or ()
        for position, token in enumerate(tokens):
            following[tokens[:position]].append(token)
    often = {prefix: seen for prefix, seen in following.items() if len(seen) >= 80}
    assert len(often) >= prefixes
    for prefix, seen in often.items():
        logits = biased(reference.logits(refining(DRAFT), prefix)[-1], sampling.logit_bias or {})
        due = exact_probabilities(
            logits, 0.9, sampling.top_p or 1.0, sampling.top_k or VOCAB, min_p=sampling.min_p or 0.0
        )
        assert chi_square_p(torch.bincount(torch.tensor(seen), minlength=VOCAB), due) > 1e-5, prefix


def biased(logits: torch.Tensor, bias: Mapping[str, float]) -> torch.Tensor:
    logits = logits.clone()
    for token, value in bias.items():
        logits[int(token)] += value
    return logits
