"""The bundle's two roles on one vLLM engine in this process.

Roles that share their weights are two prompts for them; with separate roles each round picks its LoRA adapter, or none.
Prompts are given as token ids (prompt.py). Closing a completion's generator aborts it in the engine.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from vllm.config.lora import MaxLoRARanks
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM

from slhf_server.bundles.opened import OpenBundle
from slhf_server.engine.cpu import dtype_for
from slhf_server.engine.parsing import OutputParsers, detected_tool_parser
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.engine.role import VLLMRole
from slhf_server.engine.template_options import template_options
from slhf_server.errors import EngineUnavailable
from slhf_server.models.base import SamplingParams, Turn
from slhf_server.models.comparing import comparing
from slhf_server.models.requirements.running import Sandbox
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import Settings

_logger = logging.getLogger(__name__)
_CPU_DEFAULTS: dict[str, Any] = {
    "block_size": 32,  # vLLM's 128 for CPUs caches nothing of a short chat; CPU kernels want multiples of 32
    "enforce_eager": True,  # compiling gains a tenth and costs 45 s of every start
    "kv_cache_memory_bytes": 2 << 30,
    # The model runs in the engine's own process: one process and its imports less to start, and no second one that
    # spins on a core while it waits. vLLM's reason for two is the OpenMP environment, which `set_cpu_environment` sets.
    "distributed_executor_backend": "vllm.v1.executor.uniproc_executor.UniProcExecutor",
    "worker_extension_cls": "slhf_server.engine.repairs.CpuRepairs",
}
# Guidance refuses what it does not know of a schema, where xgrammar (vLLM's choice) ignores it, and compiles what keeps
# xgrammar busy for minutes (an enum of 20,000 values). Without free whitespace a small model cannot write it for ever.
_STRUCTURED_OUTPUTS: dict[str, Any] = {"backend": "guidance", "disable_any_whitespace": True}
_ROUNDS_STEP = -1
"""Priority of a Follower's round beside that of a draft: what has begun is finished before anything new begins."""
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
    """Implements `OwnEngine` (models/base.py)."""

    def __init__(
        self,
        llm: AsyncLLM,
        bundle: OpenBundle,
        encoder: PromptEncoder,
        parsers: OutputParsers,
        sandbox: Sandbox | None,
    ) -> None:
        self._llm = llm
        self.manifest = bundle.manifest
        self.tokenizer = encoder
        self.max_model_len = llm.model_config.max_model_len
        self.calls_tools = parsers.calls_tools
        self.template_options = template_options(encoder.template_text)
        defaults = llm.model_config.get_diff_sampling_param() | bundle.manifest.sampling.model_dump(exclude_none=True)
        adapters = _adapters(bundle)
        self.leader = VLLMRole(bundle.manifest.name, llm, encoder, defaults, adapters["leader"], parsers)
        self._follower = VLLMRole(
            bundle.manifest.name, llm, encoder, defaults, adapters["follower"], parsers, _ROUNDS_STEP
        )
        self.follower = comparing(replace(self.leader, step=_ROUNDS_STEP), self._follower, bundle.manifest, sandbox)

    @classmethod
    def load(
        cls, bundle: OpenBundle, settings: Settings, encoder: PromptEncoder, sandbox: Sandbox | None = None
    ) -> "VLLMEngine":
        """Start the engine's processes and load the weights. This blocks, so call it in a thread.

        Raises SettingsError for engine arguments and parsers that vLLM refuses.
        """
        parsers = output_parsers(bundle, settings, encoder)
        if current_platform.is_cpu():
            set_cpu_environment()
        try:
            config = AsyncEngineArgs(**engine_arguments(bundle, settings)).create_engine_config()
        except (TypeError, ValueError) as exc:  # an unknown argument, or a value that pydantic refuses
            raise SettingsError(f"engine: {exc}") from exc
        return cls(AsyncLLM.from_vllm_config(config, disable_log_stats=False), bundle, encoder, parsers, sandbox)

    async def warm_up(self) -> None:
        """Load the adapters, since a missing one would kill the engine in a request, and have each role answer once."""
        for role in {role.adapter: role for role in (self.leader, self._follower)}.values():
            if role.adapter is not None:
                await self._llm.add_lora(role.adapter)
            turns = [Turn("user", "Hello")]
            async with aclosing(role.stream(turns, SamplingParams(max_tokens=2), request_id="warm-up")) as chunks:
                async for _ in chunks:
                    pass

    @property
    def sleep_obstacle(self) -> str | None:
        if self._llm.model_config.enable_sleep_mode:
            return None
        return "this engine cannot sleep: it needs the engine argument enable_sleep_mode, which vLLM has for GPUs alone"

    async def sleep(self) -> None:
        await self._llm.sleep(level=1, mode="wait")

    async def wake_up(self) -> None:
        await self._llm.wake_up()

    def check(self) -> None:
        if self._llm.errored:
            raise EngineUnavailable("the engine has died")

    def shutdown(self) -> None:
        self._llm.shutdown(timeout=_SHUTDOWN_S)


def sees_nvidia_gpu() -> bool:
    """Whether vLLM runs on an NVIDIA GPU here."""
    return bool(current_platform.is_cuda())


def set_cpu_environment() -> None:
    """Set what the engine's process inherits, unless the operator has set it."""
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(cores if cores <= 4 else cores - 1))
    # The n-gram proposer's numba, on OpenMP, would cut torch down to one thread.
    os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")


def output_parsers(bundle: OpenBundle, settings: Settings, encoder: PromptEncoder) -> OutputParsers:
    """The parsers of the bundle's output. Raises SettingsError for one that vLLM does not have, or that cannot be used.

    A detected one that cannot be used is none: nobody asked for it.
    """
    thoughts = _chosen(settings.reasoning_parser, bundle.manifest.reasoning_parser)
    named = _chosen(settings.tool_parser, bundle.manifest.tool_parser)
    if named is not None and not encoder.shows_tools:
        raise SettingsError(f"tool_parser {named!r}: the bundle's chat template does not tell the model of tools")
    if named is not None or settings.tool_parser == "none" or not encoder.shows_tools:
        return OutputParsers(encoder.tokenizer, named, thoughts)
    detected = detected_tool_parser(encoder.template_text)
    try:
        return OutputParsers(encoder.tokenizer, detected, thoughts)
    except SettingsError as exc:
        _logger.warning("tools are not called: the template looks like that of %s, but %s", detected, exc)
        return OutputParsers(encoder.tokenizer, None, thoughts)


def _chosen(setting: str, manifest: str | None) -> str | None:
    """The operator's parser, or the manifest's where the setting leaves it to the bundle."""
    return {"auto": manifest, "none": None}.get(setting, setting)


def engine_arguments(bundle: OpenBundle, settings: Settings) -> dict[str, Any]:
    """vLLM's engine arguments: what the bundle needs, our defaults where vLLM's do not fit, and last the operator's."""
    arguments: dict[str, Any] = {
        "model": str(bundle.weights),
        "served_model_name": bundle.manifest.name,
        "structured_outputs_config": _STRUCTURED_OUTPUTS,
        "scheduling_policy": "priority",  # first come, first served among equals
    }
    if (parser := _chosen(settings.reasoning_parser, bundle.manifest.reasoning_parser)) is not None:
        arguments["structured_outputs_config"] = _STRUCTURED_OUTPUTS | {"reasoning_parser": parser}
    if current_platform.is_cpu():
        arguments |= _CPU_DEFAULTS | {"dtype": dtype_for(torch.cpu.get_capabilities())}
    adapters = {path for role in ("leader", "follower") if (path := bundle.adapter(role))}
    if adapters:
        configs = [json.loads((path / "adapter_config.json").read_bytes()) for path in adapters]
        arguments |= {
            "enable_lora": True,
            "max_loras": len(adapters),
            "max_lora_rank": _rank_limit(configs),
            "lora_target_modules": _target_modules(configs),
        }
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


def _rank_limit(configs: Sequence[Mapping[str, Any]]) -> int:
    """The smallest limit that vLLM knows and that takes every adapter's rank r, as peft recorded it."""
    largest = max(int(config["r"]) for config in configs)
    return min((limit for limit in get_args(MaxLoRARanks) if limit >= largest), default=largest)


def _target_modules(configs: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """The modules that the adapters change, so that vLLM makes room for no others (head and embedding are costly).

    None, which means all modules, where an adapter names its own by a pattern.
    """
    named: set[str] = set()
    for names in (config.get("target_modules") for config in configs):
        if not isinstance(names, list):
            return None
        named |= set(names)
    return sorted(named)
