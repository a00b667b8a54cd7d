"""The one package that imports vLLM: the bundle's two roles on one engine in this process.

Shared weights are two prompts for the same weights; separate roles are two LoRA adapters on one base, chosen per round.
Prompts go in as token ids (prompt.py). Closing a completion's generator aborts it in the engine.
"""

import json
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from transformers import AutoTokenizer
from vllm import SamplingParams
from vllm.config.lora import MaxLoRARanks
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import QueueOverflowError, VLLMClientError
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from slhf.wire import FinishReason
from slhf_server.bundles import OpenBundle
from slhf_server.errors import (
    BadRequest,
    ContextLengthExceeded,
    EngineFailed,
    EngineUnavailable,
    QueueFull,
    SettingsError,
    TokenBudgetExceeded,
)
from slhf_server.model import Chunk, Sampling, Turn
from slhf_server.prompt import PromptEncoder
from slhf_server.settings import Settings

_CPU_DEFAULTS: dict[str, Any] = {
    "block_size": 32,  # vLLM's 128 there caches nothing of a short chat; CPU kernels want multiples of 32
    "enforce_eager": True,  # compiling gains a tenth and costs 45 s of every start
    "kv_cache_memory_bytes": 2 << 30,
    # The model runs in the engine's own process: one process and its imports less to start, and no second one that
    # spins on a core while it waits. vLLM's reason for two is the OpenMP environment, which `set_cpu_environment` sets.
    "distributed_executor_backend": "vllm.v1.executor.uniproc_executor.UniProcExecutor",
    "worker_extension_cls": "slhf_server.engine.repairs.CpuRepairs",
}
_SHUTDOWN_S = 15.0  # vLLM's 5 s can kill the engine process before it has ended its own workers
DRAFT_SPECULATION: dict[str, Any] = {
    "method": "ngram",
    "num_speculative_tokens": 5,
    "prompt_lookup_max": 4,
    "prompt_lookup_min": 2,
    # A full batch keeps the processor busy without guesses: from, to (requests at once), tokens to guess.
    "num_speculative_tokens_per_batch_size": [[1, 8, 5], [9, 1024, 0]],
}


class VLLMEngine:
    """Implements `Engine` (model.py)."""

    def __init__(self, llm: AsyncLLM, bundle: OpenBundle) -> None:
        self._llm = llm
        self.manifest = bundle.manifest
        self.max_model_len = llm.model_config.max_model_len
        encoder = PromptEncoder(AutoTokenizer.from_pretrained(bundle.weights))
        defaults = llm.model_config.get_diff_sampling_param() | bundle.manifest.sampling.model_dump(exclude_none=True)
        adapters = _adapters(bundle)
        self.leader = VLLMRole(bundle.manifest.name, llm, encoder, defaults, adapters["leader"])
        self.follower = VLLMRole(bundle.manifest.name, llm, encoder, defaults, adapters["follower"])

    @classmethod
    def load(cls, bundle: OpenBundle, settings: Settings) -> "VLLMEngine":
        """Start the engine's processes and load the weights; blocks, so call it in a thread.

        Raises SettingsError for engine arguments that vLLM refuses.
        """
        if current_platform.is_cpu():
            set_cpu_environment()
        try:
            config = AsyncEngineArgs(**engine_arguments(bundle, settings)).create_engine_config()
        except (TypeError, ValueError) as exc:  # an unknown argument, or pydantic's verdict on a value
            raise SettingsError(f"engine: {exc}") from exc
        return cls(AsyncLLM.from_vllm_config(config, disable_log_stats=False), bundle)

    async def warm_up(self) -> None:
        """Load the adapters (a missing one must fail now: in a request it would kill the engine) and play each role."""
        for role in {role.adapter: role for role in (self.leader, self.follower)}.values():
            if role.adapter is not None:
                await self._llm.add_lora(role.adapter)
            turns = [Turn("user", "Hello")]
            async with aclosing(role.stream(turns, Sampling(max_tokens=2), request_id="warm-up")) as chunks:
                async for _ in chunks:
                    pass

    def check(self) -> None:
        if self._llm.errored:
            raise EngineUnavailable("the engine has died")

    def shutdown(self) -> None:
        self._llm.shutdown(timeout=_SHUTDOWN_S)


@dataclass(frozen=True, slots=True)
class VLLMRole:
    """Implements `ChatModel`: one role's prompt-to-chunks path."""

    name: str
    llm: AsyncLLM
    encoder: PromptEncoder
    defaults: dict[str, Any]
    adapter: LoRARequest | None

    async def stream(
        self, turns: Sequence[Turn], sampling: Sampling, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        ids = self.encoder.encode(turns)
        params = self._params(sampling, len(ids), deltas)
        outputs = self.llm.generate(tokens_input(ids), params, request_id=request_id, lora_request=self.adapter)
        text: list[str] = []
        generated: list[int] = []
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    piece = output.outputs[0]
                    text.append(piece.text)
                    generated += piece.token_ids
                    yield self._chunk(output, piece, "".join(text) if output.finished else None, generated)
        except QueueOverflowError as exc:
            raise QueueFull("the engine's queue is full") from exc
        except VLLMClientError as exc:
            raise BadRequest(str(exc)) from exc
        except EngineGenerateError as exc:
            raise EngineFailed("the engine failed on this request") from exc
        except EngineDeadError as exc:
            raise EngineUnavailable("the engine has died") from exc

    def _chunk(self, output: RequestOutput, piece: CompletionOutput, text: str | None, generated: list[int]) -> Chunk:
        """`text` is the whole completion on the last chunk, else None."""
        accepted, rejected = _guesses(piece)
        return Chunk(
            text=piece.text,
            completion_tokens=len(piece.token_ids),
            prompt_tokens=len(output.prompt_token_ids or ()),
            cached_tokens=output.num_cached_tokens or 0,
            finish_reason=None if piece.finish_reason is None else _finish_reason(piece.finish_reason),
            accepted_tokens=accepted,
            rejected_tokens=rejected,
            token_ids=None if text is None else self.encoder.faithful(_without_end(piece, generated), text),
        )

    def _params(self, sampling: Sampling, prompt_tokens: int, deltas: bool) -> SamplingParams:
        """vLLM's parameters. Raises where no token would fit, and for values that vLLM refuses."""
        room = self.llm.model_config.max_model_len - prompt_tokens
        if room < 1:
            raise ContextLengthExceeded(prompt_tokens, self.llm.model_config.max_model_len)
        if sampling.max_total_tokens is not None:
            room = min(room, sampling.max_total_tokens - prompt_tokens)
        if room < 1:
            raise TokenBudgetExceeded(
                f"max_total_tokens leaves {sampling.max_total_tokens} tokens; the next prompt alone has {prompt_tokens}"
            )
        wishes = {name: value for name in _PASSED_ON if (value := getattr(sampling, name)) is not None}
        options = self.defaults | wishes
        options["max_tokens"] = min(options.get("max_tokens") or room, room)
        if options["max_tokens"] == room:  # the wish was cut to the room there is
            options["min_tokens"] = min(options.get("min_tokens", 0), room)
        options["stop"] = list(sampling.stop)  # SamplingParams takes no tuple
        kind = RequestOutputKind.DELTA if deltas else RequestOutputKind.FINAL_ONLY
        try:
            return SamplingParams(**options, output_kind=kind)
        except (ValueError, VLLMClientError) as exc:
            raise BadRequest(str(exc)) from exc


_FINISHED: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
_PASSED_ON = tuple(name for name in Sampling.__dataclass_fields__ if name not in ("max_total_tokens", "stop"))


def set_cpu_environment() -> None:
    """What the engine's process inherits, unless the operator has set it."""
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(cores if cores <= 4 else cores - 1))
    # The n-gram proposer's numba, on OpenMP, would cut torch down to one thread.
    os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")


def engine_arguments(bundle: OpenBundle, settings: Settings) -> dict[str, Any]:
    """vLLM's engine arguments: what the bundle needs, our defaults where vLLM's do not fit, the operator's last."""
    arguments: dict[str, Any] = {"model": str(bundle.weights), "served_model_name": bundle.manifest.name}
    if current_platform.is_cpu():
        arguments |= _CPU_DEFAULTS
    adapters = {path for role in ("leader", "follower") if (path := bundle.adapter(role))}
    if adapters:
        arguments |= {"enable_lora": True, "max_loras": len(adapters), "max_lora_rank": _rank_limit(adapters)}
    if settings.speculation == "on" or (settings.speculation == "auto" and current_platform.is_cpu()):
        arguments |= {"speculative_config": DRAFT_SPECULATION, "per_request_spec_decode_metrics": "summary"}
    return arguments | settings.engine


def _adapters(bundle: OpenBundle) -> dict[str, LoRARequest | None]:
    """One LoRARequest per distinct adapter directory; a role without one plays the base weights."""
    requests: dict[Path, LoRARequest] = {}
    chosen: dict[str, LoRARequest | None] = {}
    for role in ("leader", "follower"):
        path = bundle.adapter(role)
        if path is not None and path not in requests:
            requests[path] = LoRARequest(role, len(requests) + 1, str(path))
        chosen[role] = None if path is None else requests[path]
    return chosen


def _rank_limit(adapters: set[Path]) -> int:
    """The smallest limit that vLLM knows and that takes every adapter's rank r, as peft recorded it."""
    largest = max(int(json.loads((path / "adapter_config.json").read_bytes())["r"]) for path in adapters)
    return min((limit for limit in get_args(MaxLoRARanks) if limit >= largest), default=largest)


def _finish_reason(reason: str) -> FinishReason:
    if reason == "abort":
        raise EngineUnavailable("the engine is shutting down")
    if reason not in _FINISHED:
        raise EngineFailed(f"the engine ended this completion with {reason!r}")
    return _FINISHED[reason]


def _guesses(piece: CompletionOutput) -> tuple[int, int]:
    """Tokens guessed and confirmed, guessed and not. vLLM tells on the last output, unless a stop string ended it."""
    summary = piece.spec_decode_metrics
    if summary is None:
        return 0, 0
    accepted = sum(length * steps for length, steps in enumerate(summary.histogram))
    return accepted, summary.num_draft_tokens - accepted


def _without_end(piece: CompletionOutput, generated: list[int]) -> list[int]:
    """The ids of the text itself: a completion that ended by a stop token (not a stop string) has it as its last id."""
    ended_by_token = piece.finish_reason == "stop" and not isinstance(piece.stop_reason, str)
    return generated[:-1] if ended_by_token else generated
