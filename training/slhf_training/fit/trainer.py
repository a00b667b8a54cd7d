"""A transformers Trainer whose step is one iteration of the game; callbacks, logging and the loop stay transformers'.

The step holds its own micro-batches and clips each role's gradient itself, so transformers' accumulation and clipping
are off. What several processes share is in sharding.py.
"""

import contextlib
import logging
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import DistributedType, gather_object
from transformers import PrinterCallback, TrainerCallback
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints

from slhf_training.data import Example
from slhf_training.data.load import DataSettings, load
from slhf_training.errors import DataError, SettingsError
from slhf_training.fit import FitSettings, validation
from slhf_training.fit.algorithms import Completion, Episode
from slhf_training.fit.ema import Ema
from slhf_training.fit.learner import Learner, StepResult
from slhf_training.fit.optimisation import Clip, Progress, ResumableTrainer, checkpoint_gradients, training_arguments
from slhf_training.fit.step import ChatStepContext, Clock, DraftPool, Environment, drafts_of
from slhf_training.fit.validation import Validation, arguments_of, patience_of
from slhf_training.models import sharding
from slhf_training.models.bundles import directory_of
from slhf_training.models.load import end_ids_of, load_causal
from slhf_training.models.prompts import Prompts
from slhf_training.models.roles import DTYPES, Roles
from slhf_training.models.sharding import this_process
from slhf_training.preference import Preference, preference_of
from slhf_training.rollout import Rollout, Sleeping
from slhf_training.rollout.hf import HFRollout
from slhf_training.rollout.server import ServerRollout
from slhf_training.rollout.vllm import VLLMRollout
from slhf_training.types import Chat, chat_key


def of_step(context: ChatStepContext, rows: Sequence[Episode], result: StepResult) -> dict[str, float]:
    found = {f"{role}/kl": _mean(kls) for role, kls in result.kl.items() if kls}
    found |= {f"{name}/grad_norm": norm for name, norm in result.grad_norm.items()}
    for role in ("leader", "follower"):
        rewards = [row.reward for row in rows if row.role == role and not math.isnan(row.reward)]
        if rewards:
            found[f"{role}/reward"] = _mean(rewards)
    for player in dict.fromkeys(player for player, _ in context.answered):
        found |= _answers(player, [answer for who, answer in context.answered if who == player])
    found |= {f"{player}/right": share for player, share in context.right().items()}
    if context.answered[-1][0] == "follower":
        for turn, p in enumerate(context.judged, start=1):
            name = "win_rate" if turn == 1 else f"win_rate_{turn}"
            own = len(p) * context.chats // (context.chats + len(context.given()))  # as many replies to each draft
            for whose, ps in (("follower", p[:own]), ("given", p[own:])):
                if not np.isnan(ps).all():
                    found[f"{whose}/{name}"] = float(np.nanmean(1 - ps))
    found["judge/abstained"] = float(result.abstained)
    found["skipped"] = float(result.is_skipped)
    found["tokens"] = float(sum(len(answer.sample.ids) for _, answer in context.answered))
    if result.tokens:
        found["sampler_gap"] = result.drift / result.tokens  # nats a token
    return found


def of_time(seconds: dict[str, float], whole: float) -> dict[str, float]:
    return {f"seconds/{phase}": s for phase, s in seconds.items()} | {"seconds/step": whole}


def rates(means: dict[str, float], processes: int) -> dict[str, float]:
    """Generated tokens per second of all processes: of the whole step, of sampling, and of learning from them."""
    tokens = means["tokens"] * processes
    learning = sum(means.get(f"seconds/{phase}", 0.0) for phase in ("reference", "forward_backward", "update"))
    seconds = {"": means["seconds/step"], "/rollout": means.get("seconds/rollout", 0.0), "/learning": learning}
    return {f"tokens_per_second{what}": tokens / s for what, s in seconds.items() if s > 0}


def _answers(player: str, answers: Sequence[Completion]) -> dict[str, float]:
    return {
        f"{player}/tokens": _mean(len(answer.sample.ids) for answer in answers),
        f"{player}/ended": _mean(float(answer.sample.ended) for answer in answers),
    }


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


STAGING = ".unfinished"
_LOG = logging.getLogger(__name__)


class GameTrainer(ResumableTrainer):
    def __init__(
        self,
        roles: Roles,
        prompts: Prompts,
        chats: Sequence[Chat],
        preference: Preference,
        rollout: Rollout,
        settings: FitSettings,
        callbacks: Sequence[TrainerCallback] = (),
        draft_pool: DraftPool | None = None,
        validation: Validation | None = None,
    ) -> None:
        """Raises DataError where the chats do not fill one batch."""
        self.roles = roles
        self._draft_pool = draft_pool
        self._validation = validation
        self.settings = settings
        self.clock = Clock()
        self.environment = Environment(
            prompts, rollout, preference, self.clock, settings.game.eos_penalty, settings.seed
        )
        self._pending: dict[str, list[float]] = defaultdict(list)
        self._step_started = time.perf_counter()
        self._saving = False
        self._clip = Clip(settings.optimisation.max_grad_norm, settings.output_dir)
        asked = sharding.from_launcher()
        args = training_arguments(settings, **arguments_of(settings.validation))  # here processes find each other
        if asked is not None and args.world_size > 1:
            roles.shard(lambda model: asked.split(model, args.device, _gathered_dtype(settings)))
        with sharding.without_launcher():
            super().__init__(
                model=roles.model,
                args=args,
                train_dataset=[{"number": i, "chat": chat} for i, chat in enumerate(chats)],
                eval_dataset=[] if validation else None,  # ours are not read in batches
                data_collator=_examples,
                callbacks=[*callbacks, Progress(), _Timing(self), *patience_of(settings.validation)],
            )
        self.is_distributed_loading_by_transformers = roles.is_sharded  # transformers' word for: do not wrap the model
        self.remove_callback(PrinterCallback)
        if self.accelerator.distributed_type not in _SUPPORTED:
            raise SettingsError(f"{self.accelerator.distributed_type} is not supported: use DDP or FSDP2")
        if len(chats) < settings.optimisation.batch_size * self.args.world_size:
            raise DataError(f"data: {len(chats)} chats do not fill one batch of {settings.optimisation.batch_size}")
        self._learner = Learner(roles, settings, self.clock, gather_object)
        self._ema = None if settings.ema_decay is None else Ema(roles, settings.ema_decay)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """One iteration: play, judge, learn. Returns the loss; gradients are clipped and the same everywhere."""
        self._step_started = time.perf_counter()
        self.roles.model.eval()
        examples = inputs["examples"]
        numbers, chats = [e["number"] for e in examples], [e["chat"] for e in examples]
        step = self.state.global_step
        given = self._draft_pool.at(step) if self._draft_pool else []
        context = ChatStepContext(self.environment, chats, numbers, step, given)
        rows = self.settings.plays.play(context, self.settings.game)
        if isinstance(self.environment.rollout, Sleeping):
            with self.clock("rollout"):
                self.environment.rollout.sleep()
        leader_too = self._is_leaders_turn()
        self.roles.model.train(self.settings.optimisation.gradient_checkpointing)  # which works in this mode alone
        result = self._learner.learn(rows, leader_too)
        with self.clock("update"):
            self._reduce(leader_too)
            result.grad_norm |= self._clip(self.roles.trained, step + 1)
            result.is_skipped = self._clip.has_skipped
        self._note(of_step(context, rows, result))
        return torch.tensor(result.loss * self.args.world_size, device=self.args.device)

    def _is_leaders_turn(self) -> bool:
        every = self.settings.game.leader_update_every
        return len(self.settings.plays.trains) == 1 or self.state.global_step % every == 0

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

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validate, and log it. transformers calls this, and keeps in its state which step was the best."""
        assert self._validation is not None
        started = time.perf_counter()
        self.roles.model.eval()
        ours = self._validation(self.environment, self.settings.plays)
        records = sorted(gather_object(ours), key=lambda record: int(record["number"]))
        found = validation.figures(records) | {"seconds/validation": time.perf_counter() - started}
        if self.args.should_save:
            validation.write(self.settings.output_dir, self.state.global_step, records)
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                    callback.tb_writer.add_text("validation", validation.shown(records), self.state.global_step)
        super().log(dict(found))
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # transformers' estimate is for one forward and backward pass of `inputs`

    def end_step(self) -> None:
        """After the update: average the weights, and log this step's seconds by phase."""
        if self._ema is not None:
            with self.clock("update"):
                self._ema.update(self.state.global_step)
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
        """Have transformers write a checkpoint beside the finished ones until it is whole."""
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
        best = str(directory / f"checkpoint-{step}") if (step := self.state.best_global_step) else None
        self.state.best_model_checkpoint = best  # transformers takes it for the one that is still aside
        if self.args.should_save:
            self.state.save_to_json(str(directory / STAGING / name / TRAINER_STATE_NAME))
            shutil.rmtree(directory / name, ignore_errors=True)
            (directory / STAGING / name).rename(directory / name)
            (directory / STAGING).rmdir()
            rotate_checkpoints(str(directory), self.settings.keep_checkpoints, best_model_checkpoint=best)
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        directory = Path(output_dir or self.args.output_dir)
        self.roles.save(directory, write=self.args.should_save)
        if self._ema is not None:
            self._ema.save(directory, write=self.args.should_save)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.args.should_save:
            self.optimizer.state_dict()  # this process's part of what another one writes
        super()._save_optimizer_and_scheduler(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.roles.load(Path(resume_from_checkpoint))
        if self._ema is not None:
            self._ema.load(Path(resume_from_checkpoint))


def _gathered_dtype(settings: FitSettings) -> torch.dtype | None:
    """In what all weights are gathered; None: in their own dtype, as adapters beside a frozen base must be."""
    return torch.bfloat16 if settings.weights == "full" and settings.optimisation.autocast == "bfloat16" else None


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
        self._trainer.end_step()


def _examples(batch: list[Any]) -> dict[str, list[Any]]:
    return {"examples": batch}


def trainer_of(settings: FitSettings) -> GameTrainer:
    """The trainer with its data and judges. Raises SettingsError, DataError and JudgeError naming what is wrong."""
    chats = _each_once(settings.data)
    drafted = [example for data in (settings.drafts.data if settings.drafts else ()) for example in load(data)]
    held_out = None
    if (validation := settings.validation) is not None:
        held_out = _each_once(validation.data), preference_of(validation.preference)
    trainer = build_trainer(settings, chats, preference_of(settings.preference), drafted, held_out)
    if dropped := len(chats) - len(trainer.train_dataset):
        most = settings.rollout.max_prompt_tokens
        _LOG.info("%d of %d chats need more than %d tokens and were dropped", dropped, len(chats), most)
    return trainer


def _each_once(data: DataSettings) -> list[Chat]:
    """The chats, of which HelpSteer2 has two rows each."""
    rows = [example.chat for example in load(data)]
    chats = [*{chat_key(chat): chat for chat in rows}.values()]
    if len(chats) < len(rows):
        _LOG.info("%d rows ask %d different chats, each of which is taken once", len(rows), len(chats))
    return chats


def build_trainer(
    settings: FitSettings,
    chats: Sequence[Chat],
    preference: Preference,
    drafted: Sequence[Example] = (),
    held_out: tuple[Sequence[Chat], Preference] | None = None,
) -> GameTrainer:
    """`drafted`: where the settings' `drafts` are. `held_out`: where they have a `validation`.

    Raises SettingsError for a model that cannot be had, DataError for chats or drafts that cannot be used.
    """
    tokenizer, base = load_model(settings)
    prompts = Prompts(tokenizer, settings.follower_turn, end_ids_of(base))
    roles = build_roles(settings, base)
    if settings.adapter is not None:
        roles.begin_with(directory_of(settings.adapter, "adapter"))
    kept = short_enough(chats, prompts, settings.rollout.max_prompt_tokens)
    draft_pool = None
    if settings.drafts is not None:
        most = settings.rollout.max_prompt_tokens + settings.rollout.max_new_tokens  # as with an answer of the Leader
        found = drafts_of(drafted, prompts, len(kept), most, settings.drafts.answers)
        ours = this_process()
        draft_pool = DraftPool(found, settings.drafts.per_step, settings.seed, ours.process_index, ours.num_processes)
    validating = None
    if held_out is not None:
        short = short_enough(held_out[0], prompts, settings.rollout.max_prompt_tokens)
        validating = Validation(short, held_out[1], kept)
    sampler = _rollout(settings, roles, prompts)
    return GameTrainer(
        roles, prompts, kept, preference, sampler, settings, draft_pool=draft_pool, validation=validating
    )


def load_model(settings: FitSettings) -> tuple[Any, Any]:
    """The tokenizer and the base model."""
    return load_causal(settings.model, DTYPES[settings.dtype])


def build_roles(settings: FitSettings, base: Any) -> Roles:
    torch.manual_seed(settings.seed)  # the adapters' first weights
    merges = settings.rollout.engine == "hf"
    roles = Roles(base, settings.weights, settings.lora, settings.plays.trains, DTYPES[settings.rollout.dtype], merges)
    checkpoint_gradients(roles.model, settings)
    return roles


def short_enough(chats: Sequence[Chat], prompts: Prompts, most: int) -> list[Chat]:
    """The chats whose Leader's prompt fits."""
    return [chat for chat in chats if len(prompts.leader(chat)) <= most]


def _rollout(settings: FitSettings, roles: Roles, prompts: Prompts) -> Rollout:
    match settings.rollout.engine:
        case "hf":
            return HFRollout(roles, settings.rollout, prompts.end_ids, settings.game.mixture)
        case "vllm":
            return VLLMRollout(roles, settings.model, settings.rollout, settings.seed, prompts.end_ids)
        case "vllm-server":
            return ServerRollout(roles, settings.rollout, prompts.end_ids)
