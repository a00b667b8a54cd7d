"""Sampling with vLLM in this process, by the same weights: merged ones are handed over before each role speaks.

vLLM's own LoRA path is slow on CPUs, and merged weights serve every kind of weights alike. Its sampler is not the
trainer to the bit: `sampler_gap` in the log says by how much, and `game.importance_cap` corrects for it.
"""

import os
from collections.abc import Sequence
from typing import Any

from slhf_training.roles import Role, Roles
from slhf_training.rollout import Ids, Player, Sample
from slhf_training.settings import FitSettings

_SEEDS = (1 << 63) - 1  # vLLM's seeds are signed


class VLLMRollout:
    def __init__(self, roles: Roles, settings: FitSettings, end_ids: frozenset[int]) -> None:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # weights are handed over without a copy to a file
        from vllm import LLM

        rollout = settings.rollout
        self._roles = roles
        self._rollout = rollout
        self._end_ids = sorted(end_ids)
        self._llm = LLM(
            model=settings.model,
            **{
                "dtype": rollout.dtype,
                "logprobs_mode": "processed_logprobs",  # at the sampling temperature
                "max_num_seqs": rollout.batch_size,
                "seed": settings.seed,
                "enable_prefix_caching": False,  # what it holds is stale after every update
                "enforce_eager": True,
            }
            | rollout.engine,
        )

    def sample(self, prompts: Sequence[Ids], player: Player, seeds: Sequence[int]) -> list[Sample]:
        from vllm import SamplingParams

        assert player != "mixture", "FitSettings refuses nash-md with vLLM"
        self._hand_over(None if player == "reference" else player)
        parameters = [
            SamplingParams(
                temperature=self._rollout.temperature,
                max_tokens=self._rollout.max_new_tokens,
                stop_token_ids=self._end_ids,
                seed=seed & _SEEDS,
                logprobs=0,  # of the chosen token alone
                detokenize=False,
            )
            for seed in seeds
        ]
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = self._llm.generate(inputs, parameters, use_tqdm=False)
        return [_sample(output.outputs[0]) for output in outputs]

    def _hand_over(self, role: Role | None) -> None:
        weights = iter(self._roles.merged_state(role).items())
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})


def _sample(completion: Any) -> Sample:
    ids = tuple(completion.token_ids)
    logps = tuple(float(at[i].logprob) for at, i in zip(completion.logprobs, ids, strict=True))
    return Sample(ids, logps, ended=completion.finish_reason == "stop")
