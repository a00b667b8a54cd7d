"""What a configuration of `slhf-train fit` will take, before it takes it: lengths, memory, and one real step.

Activations are estimated as in Korthikanti et al. (arXiv 2205.05198): 34 bytes for each token, layer and hidden unit in
16 bits where attention keeps no scores, and one input of each layer where gradients are checkpointed.
"""

import resource
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from slhf_training.data.load import load
from slhf_training.errors import SettingsError
from slhf_training.fit import FitSettings
from slhf_training.fit.trainer import GameTrainer, trainer_of
from slhf_training.models.bundles import located
from slhf_training.models.roles import DTYPES, with_adapters
from slhf_training.models.sharding import from_launcher, this_process

GIB = 1 << 30
_FEW = 8
"""Held-out chats that are answered; more where there are more processes."""
_ACTIVATIONS = 34
"""Bytes of one token in one layer, times the hidden size, in 16 bits."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one process, by what they are for; an estimate."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def estimate(settings: FitSettings, processes: int = 1, sharded: bool = False) -> Memory:
    """Without a weight in memory. Raises SettingsError for a model that cannot be found.

    `sharded`: by FSDP2 over so many processes.
    """
    try:
        config = AutoConfig.from_pretrained(located(settings.model, "model"))
    except (OSError, ValueError) as exc:
        raise SettingsError(f"model: {settings.model}: {exc}") from exc
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        base = sum(parameter.numel() for parameter in model.parameters())
        learnt = base if settings.weights == "full" else _of_adapters(model, settings)
    sizes = config.get_text_config()
    optimisation, rollout = settings.optimisation, settings.rollout
    sharded = sharded and processes > 1
    share = processes if sharded else 1
    kept = DTYPES[settings.dtype].itemsize
    copies = int(rollout.engine == "hf") if settings.weights != "full" else 1 + (rollout.engine == "hf" and sharded)
    tokens = optimisation.micro_batch_size * (rollout.max_prompt_tokens + rollout.max_new_tokens)
    computed = 2 if optimisation.autocast == "bfloat16" else kept
    width = sizes.hidden_size * computed
    layer = _ACTIVATIONS * sizes.hidden_size * computed // 2
    per_token = (
        sizes.num_hidden_layers * width + layer
        if optimisation.gradient_checkpointing
        else (sizes.num_hidden_layers * layer)
    )
    head = getattr(sizes, "head_dim", None) or sizes.hidden_size // sizes.num_attention_heads
    cached = 2 * sizes.num_hidden_layers * (getattr(sizes, "num_key_value_heads", None) or 1) * head
    sampled = rollout.batch_size * (rollout.max_prompt_tokens + rollout.max_new_tokens)
    cache = sampled * cached * DTYPES[rollout.dtype].itemsize if rollout.engine == "hf" else 0
    return Memory(
        {
            "the model": base * kept // share,
            "copies of it (what samples, the reference)": copies * base * DTYPES[rollout.dtype].itemsize,
            "adapters": 0 if settings.weights == "full" else 4 * learnt,
            "gradients": 4 * learnt // share,
            "the optimiser": 8 * learnt // share,
            "the moving average": 0 if settings.ema_decay is None else 4 * learnt // share,
            "activations of a micro-batch": tokens * per_token,
            "keys and values of a batch that is sampled": cache,
        }
    )


def _of_adapters(model: Any, settings: FitSettings) -> int:
    names = list(settings.plays.trains) if settings.weights == "separate" else ["policy"]
    adapted = with_adapters(model, names, settings.lora)
    return sum(parameter.numel() for name, parameter in adapted.named_parameters() if "lora_" in name)


def spread(lengths: Sequence[int]) -> str:
    """Percentiles of token counts."""
    found = np.percentile(lengths, [50, 95, 100]).astype(int).tolist() if lengths else [0, 0, 0]
    return f"median {found[0]}, 95 % below {found[1]}, longest {found[2]}"


def for_one_step(settings: FitSettings, directory: Path) -> FitSettings:
    """The settings of one step, and a validation of a few chats, that leave nothing behind but in this directory."""
    optimisation = settings.optimisation.model_copy(update={"steps": 1, "warmup_steps": 0})
    changes: dict[str, Any] = {"optimisation": optimisation, "output_dir": directory, "report_to": [], "save_every": 1}
    if (validation := settings.validation) is not None:
        limit = max(_FEW, this_process().num_processes)
        few = validation.data.model_copy(update={"limit": min(limit, validation.data.limit or limit)})
        changes["validation"] = validation.model_copy(update={"data": few, "every": 1})
    return settings.model_copy(update=changes)


def report(trainer: GameTrainer, lengths: Sequence[int], memory: Memory) -> Iterator[str]:
    """Take the step; yields a line after the other."""
    settings = trainer.settings
    most = settings.rollout.max_prompt_tokens
    dropped = sum(length > most for length in lengths)
    yield f"prompts: {len(lengths)}, {dropped} of them over {most} tokens and dropped; tokens: {spread(lengths)}"
    steps = len(trainer.train_dataset) // (settings.optimisation.batch_size * trainer.args.world_size)
    yield f"one pass over them is {steps} steps"
    yield "memory of a process, estimated:"
    for name, size in memory.parts.items():
        yield f"  {size / GIB:8.2f} GiB  {name}"
    yield f"  {memory.total / GIB:8.2f} GiB  in all"
    trainer.train()
    step = next(entry for entry in trainer.state.log_history if "seconds/step" in entry)
    seconds = ", ".join(
        f"{key.partition('/')[2]} {step[key]:.1f}" for key in sorted(step) if key.startswith("seconds/")
    )
    yield f"one step, in seconds: {seconds}"
    yield f"sampled: {step['tokens_per_second/rollout']:.0f} tokens/s"
    yield f"sampler_gap: {step['sampler_gap']:.4f} nats a token"
    yield f"memory at its peak: {_peak() / GIB:.2f} GiB"


def _peak() -> int:
    """Bytes: of the GPU where there is one, else of the process."""
    if this_process().device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def check(settings: FitSettings) -> Iterator[str]:
    """Lines of a report, each as soon as it is known. Raises what a run would raise."""
    is_sharded = from_launcher() is not None
    memory = estimate(settings, this_process().num_processes, is_sharded)
    with tempfile.TemporaryDirectory(prefix="slhf-check-") as directory:
        trainer = trainer_of(for_one_step(settings, Path(directory)))
        lengths = [len(trainer.environment.prompts.leader(example.chat)) for example in load(settings.data)]
        yield from report(trainer, lengths, memory)
