"""What every training has: transformers' arguments, clipped gradients, the progress bar; and, around one method,
`learn`, the supervised training of one adapter.

A gradient that is not finite is not learnt from: such a step would be the end of all weights.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from slhf_training.errors import TrainingError
from slhf_training.fit import Run
from slhf_training.models import sharding

SKIPS = 5
"""So many steps in a row without a finite gradient, and the run stops."""


class Clip:
    def __init__(self, most: float, checkpoints: Path) -> None:
        """`most`: the largest norm that a group's gradient keeps."""
        self._most, self._checkpoints = most, checkpoints
        self._skipped = 0

    @property
    def has_skipped(self) -> bool:
        """The last step's gradient, which is gone."""
        return self._skipped > 0

    def __call__(self, groups: Mapping[str, Sequence[nn.Parameter]], step: int) -> dict[str, float]:
        """The norms before clipping, of the groups that have a gradient. Raises TrainingError after `SKIPS` steps."""
        norms = {
            name: sharding.whole(torch.nn.utils.clip_grad_norm_(parameters, self._most)).item()
            for name, parameters in groups.items()
            if any(parameter.grad is not None for parameter in parameters)
        }
        self._skipped = 0 if all(map(math.isfinite, norms.values())) else self._skipped + 1
        if self._skipped == SKIPS:
            raise TrainingError(
                f"step {step}: no finite gradient for {SKIPS} steps; the checkpoints in {self._checkpoints} are whole"
            )
        if self.has_skipped:
            for parameters in groups.values():
                for parameter in parameters:
                    parameter.grad = None
        return norms


def training_arguments(settings: Run, **more: Any) -> TrainingArguments:
    """`more`: by transformers' names."""
    optimisation = settings.optimisation
    return TrainingArguments(
        output_dir=str(settings.output_dir),
        max_steps=optimisation.steps,
        per_device_train_batch_size=optimisation.batch_size,
        lr_scheduler_type=optimisation.schedule,
        warmup_steps=optimisation.warmup_steps,
        learning_rate=optimisation.learning_rate,
        adam_beta1=optimisation.betas[0],
        adam_beta2=optimisation.betas[1],
        weight_decay=optimisation.weight_decay,
        max_grad_norm=0.0,  # each role's is clipped in the step
        seed=settings.seed,
        save_strategy="steps",
        save_steps=settings.save_every,
        logging_steps=settings.log_every,
        logging_nan_inf_filter=False,
        report_to=settings.report_to or "none",
        remove_unused_columns=False,
        dataloader_drop_last=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,  # Progress shows more
        ddp_find_unused_parameters=False,
        use_cpu=not sharding.has_accelerator(),  # which also makes processes on CPUs find each other
        **more,
    )


SHOWN = {
    "leader/reward": "L",
    "follower/reward": "F",
    "leader/kl": "KL_L",
    "follower/kl": "KL_F",
    "follower/win_rate": "F beats L",
    "tokens_per_second": "tok/s",
}


class Progress(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if self._bar is not None and logs:
            self._bar.set_postfix({name: f"{logs[key]:.3g}" for key, name in SHOWN.items() if key in logs})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.close()


class ResumableTrainer(Trainer):  # type: ignore[misc]
    """A run that goes on at the rates of its settings, which may have changed since its checkpoint was written."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        kept = ("initial_lr", "betas", "weight_decay")
        asked = [{key: group[key] for key in kept} for group in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        rates = [options["initial_lr"] for options in asked]
        scheduler = self.lr_scheduler
        now = [rate * factor(scheduler.last_epoch) for rate, factor in zip(rates, scheduler.lr_lambdas, strict=True)]
        for group, options, rate in zip(self.optimizer.param_groups, asked, now, strict=True):
            group.update(options, lr=rate)
        scheduler.load_state_dict(scheduler.state_dict() | {"base_lrs": rates, "_last_lr": now})


class AdapterTrainer(ResumableTrainer):
    """A step is `optimisation.batch_size` items."""

    def __init__(self, student: Any, items: Sequence[Any], settings: Run) -> None:
        super().__init__(
            model=student,
            args=training_arguments(settings),
            train_dataset=[{"item": item} for item in items],
            data_collator=lambda rows: {"items": [row["item"] for row in rows]},
            callbacks=[Progress()],
        )
        self.remove_callback(PrinterCallback)
        self._clip = Clip(settings.optimisation.max_grad_norm, settings.output_dir)
        self.pending: dict[str, list[float]] = defaultdict(list)
        """Figures of the steps since the last log; their means are logged."""

    def learn(self, items: Sequence[Any]) -> Tensor:
        """Add up the step's gradients; returns its loss."""
        raise NotImplementedError

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        total = self.learn(inputs["items"])
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        (norm,) = self._clip({"policy": trained}, self.state.global_step + 1).values()
        self.pending["grad_norm"].append(norm)
        self.pending["skipped"].append(float(self._clip.has_skipped))
        return total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs.pop("grad_norm", None)  # after clipping: ours is before
        logs |= {key: sum(values) / len(values) for key, values in self.pending.items() if values}
        self.pending.clear()
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The adapter alone: peft would look for the base model's configuration on the hub to see if it has grown."""
        self.model.save_pretrained(output_dir or self.args.output_dir, save_embedding_layers=False)

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # transformers' estimate reads tensors


def checkpoint_gradients(model: Any, settings: Run) -> None:
    """Switch gradient checkpointing on where the settings ask for it."""
    if settings.optimisation.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
