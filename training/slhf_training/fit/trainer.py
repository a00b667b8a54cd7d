"""A transformers Trainer whose step is one iteration of the game; callbacks, logging and the loop stay transformers'.

The step holds its own micro-batches and clips each role's gradient itself, so transformers' accumulation and clipping
are off. What several processes share is in sharding.py.
"""

import contextlib
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from slhf_training.errors import DataError, SettingsError
from slhf_training.fit.algorithms import ALGORITHMS
from slhf_training.fit.clipping import Clip
from slhf_training.fit.clock import Clock
from slhf_training.fit.drafts import Pile
from slhf_training.fit.learner import Learner
from slhf_training.fit.metrics import of_step, of_time, rates
from slhf_training.fit.progress import Progress
from slhf_training.fit.settings import Algorithm, FitSettings, Run
from slhf_training.fit.table import ChatTable, Seats
from slhf_training.models import sharding
from slhf_training.models.prompts import Prompts
from slhf_training.models.roles import Roles
from slhf_training.preference import Preference
from slhf_training.rollout import Rollout
from slhf_training.types import Chat, Role

STAGING = ".unfinished"
PLAYERS: dict[Algorithm, tuple[Role, ...]] = {
    "stackelberg": ("leader", "follower"),
    "rloo": ("leader",),
    "nash-md": ("leader",),
}
"""The roles that each algorithm trains."""


class GameTrainer(Trainer):  # type: ignore[misc]
    def __init__(
        self,
        roles: Roles,
        prompts: Prompts,
        chats: Sequence[Chat],
        preference: Preference,
        rollout: Rollout,
        settings: FitSettings,
        callbacks: Sequence[TrainerCallback] = (),
        pile: Pile | None = None,
    ) -> None:
        """Raises DataError where the chats do not fill one batch."""
        self.roles = roles
        self._pile = pile
        self.settings = settings
        self.clock = Clock()
        self.seats = Seats(prompts, rollout, preference, self.clock, settings.game.eos_penalty, settings.seed)
        self._pending: dict[str, list[float]] = defaultdict(list)
        self._step_started = time.perf_counter()
        self._saving = False
        self._clip = Clip(settings.optimisation.max_grad_norm, settings.output_dir)
        asked = sharding.from_launcher()
        args = training_arguments(settings)  # here processes find each other
        if asked is not None and args.world_size > 1:
            roles.shard(lambda model: asked.split(model, args.device))
        with sharding.without_launcher():
            super().__init__(
                model=roles.model,
                args=args,
                train_dataset=[{"number": i, "chat": chat} for i, chat in enumerate(chats)],
                data_collator=_examples,
                callbacks=[*callbacks, Progress(), _Timing(self)],
            )
        self.is_distributed_loading_by_transformers = roles.is_sharded  # transformers' word for: do not wrap the model
        self.remove_callback(PrinterCallback)
        if self.accelerator.distributed_type not in _SUPPORTED:
            raise SettingsError(f"{self.accelerator.distributed_type} is not supported: use DDP or FSDP2")
        if len(chats) < settings.optimisation.batch_size * self.args.world_size:
            raise DataError(f"data: {len(chats)} chats do not fill one batch of {settings.optimisation.batch_size}")
        self._learner = Learner(roles, settings, self.clock, gather_object)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """One iteration: play, judge, learn. Returns the loss; gradients are clipped and the same everywhere."""
        self._step_started = time.perf_counter()
        self.roles.model.eval()
        examples = inputs["examples"]
        numbers, chats = [e["number"] for e in examples], [e["chat"] for e in examples]
        step = self.state.global_step
        given = self._pile.at(step) if self._pile else []
        table = ChatTable(self.seats, chats, numbers, step, given)
        rows = ALGORITHMS[self.settings.algorithm](table, self.settings.game)
        leader_too = self._is_leaders_turn()
        self.roles.model.train(self.settings.optimisation.gradient_checkpointing)  # which works in this mode alone
        learnt = self._learner.learn(rows, leader_too)
        with self.clock("update"):
            self._reduce(leader_too)
            learnt.grad_norm |= self._clip(self.roles.trained, step + 1)
            learnt.is_skipped = self._clip.has_skipped
        self._note(of_step(table, rows, learnt))
        return torch.tensor(learnt.loss * self.args.world_size, device=self.args.device)

    def _is_leaders_turn(self) -> bool:
        every = self.settings.game.leader_update_every
        return self.settings.algorithm != "stackelberg" or self.state.global_step % every == 0

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        settings = self.settings.optimisation
        faster = {"follower": self.settings.game.kappa}
        groups = [
            {
                "params": parameters,
                "lr": settings.learning_rate * faster.get(name, 1.0),
            }
            for name, parameters in self.roles.trained.items()
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=settings.betas, weight_decay=settings.weight_decay)
        sharding.keep_states_whole(self.optimizer)
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._pending:  # a step's own log, not the summary at the end
            logs.pop("grad_norm", None)  # of all roles together, after clipping: ours are by role and before
            means = {key: sum(values) / len(values) for key, values in self._pending.items()}
            logs |= means | rates(means, self.args.world_size)
            self._pending.clear()
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # transformers' estimate is for one forward and backward pass of `inputs`

    def note_time(self) -> None:
        """After the update: this step's seconds by phase."""
        self._note(of_time(self.clock.read(), time.perf_counter() - self._step_started))

    def _note(self, metrics: dict[str, float]) -> None:
        everywhere: dict[str, list[float]] = defaultdict(list)
        for of_process in gather_object([metrics]):
            for key, value in of_process.items():
                everywhere[key].append(value)
        for key, values in everywhere.items():
            self._pending[key].append(sum(values) / len(values))

    def _reduce(self, leader_too: bool) -> None:
        if self.args.world_size > 1 and not self.roles.is_sharded:
            names = self.roles.trained if leader_too else [self.roles.adapter_of["follower"]]
            sharding.add_up([p for name in names for p in self.roles.trained[name]])

    def _get_output_dir(self, trial: Any) -> str:
        """Where transformers writes a checkpoint: beside the finished ones until it is whole."""
        return str(Path(self.args.output_dir) / STAGING) if self._saving else str(self.args.output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Atomic: a directory named checkpoint-N is whole, also after a crash."""
        name = f"checkpoint-{self.state.global_step}"
        directory = Path(self.args.output_dir)
        if self.args.should_save:
            shutil.rmtree(directory / STAGING, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving = False
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            shutil.rmtree(directory / name, ignore_errors=True)
            (directory / STAGING / name).rename(directory / name)
            (directory / STAGING).rmdir()
            rotate_checkpoints(output_dir=str(directory), save_total_limit=self.settings.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        self.roles.save(Path(output_dir or self.args.output_dir), write=self.args.should_save)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.args.should_save:
            self.optimizer.state_dict()  # this process's part of what another one writes
        super()._save_optimizer_and_scheduler(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.roles.load(Path(resume_from_checkpoint))


_SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


class _Timing(TrainerCallback):  # type: ignore[misc]
    def __init__(self, trainer: GameTrainer) -> None:
        self._trainer = trainer
        self._updating = contextlib.ExitStack()

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self._updating.enter_context(self._trainer.clock("update"))

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self._updating.close()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._trainer.note_time()


def _examples(batch: list[Any]) -> dict[str, list[Any]]:
    return {"examples": batch}


def training_arguments(settings: Run) -> TrainingArguments:
    optimisation = settings.optimisation
    return TrainingArguments(
        output_dir=str(settings.output_dir),
        max_steps=optimisation.steps,
        per_device_train_batch_size=optimisation.batch_size,
        lr_scheduler_type=optimisation.schedule,
        warmup_steps=optimisation.warmup_steps,
        learning_rate=optimisation.learning_rate,
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
    )
