"""Makes a bundle of JSONL rows: the rows are lessons, and one adapter learns the cross-entropy of their targets.

A row has what asks (as in data/load.py), a `draft` or none, and the `target`. One with a draft teaches the Follower,
one without the Leader; `own` are answers of its own that the Follower sees beside the draft, or `instruction` is what a
request wishes of it, and `weight` says how much the row counts (default 1). A bundle keeps by silence where some target
of a draft is nothing but thoughts.

The model is cut in two: of frozen lower layers the states can be kept, and the upper ones learn. Both halves are
transformers' own forward passes over the same weights; the lower one leaves out the final norm.
"""

import copy
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from peft import PeftModel
from pydantic import Field, model_validator
from torch import Tensor, nn

from slhf import Bundle, OwnAnswers, RoleWeights, write_bundle
from slhf.bundle import CARD, MANIFEST
from slhf.turns import CLOSE_THOUGHT
from slhf_training.config import portable
from slhf_training.data.load import PromptRow, asked
from slhf_training.data.rows import checked, read_rows
from slhf_training.errors import DataError, SettingsError
from slhf_training.fit import Run
from slhf_training.fit.optimisation import AdapterTrainer
from slhf_training.fit.run import goes_on_from, start_run
from slhf_training.imitation import ImitateSettings
from slhf_training.models.adapters import cast, name_base
from slhf_training.models.load import end_ids_of, load_causal
from slhf_training.models.prompts import Prompts
from slhf_training.models.roles import DTYPES, with_adapters
from slhf_training.models.scoring import sees_all
from slhf_training.types import Ids, Role


class LessonRow(PromptRow):
    target: str = Field(min_length=1)
    draft: str | None = None
    own: tuple[str, ...] = ()
    """Answers of its own that the Follower sees beside the draft."""
    instruction: str | None = Field(default=None, min_length=1)
    """What a request wishes of the Follower, which the server then shows no answers of its own."""
    weight: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _an_instruction_is_about_a_draft(self) -> Self:
        if self.instruction is not None and (self.draft is None or self.own):
            raise ValueError("instruction: it is the Follower's, which needs a draft and then has no own answers")
        return self


@dataclass(frozen=True, slots=True)
class SupervisedExample:
    role: Role
    prompt: Ids
    target: Ids
    """The target's ids, with the token that ends it."""
    weight: float = 1
    """Of each token of the target."""

    @property
    def ids(self) -> Ids:
        return self.prompt + self.target


def read_lessons(files: Sequence[Path]) -> Iterator[LessonRow]:
    """Raises DataError naming file, line and key."""
    for path in files:
        for number, row in read_rows(path):
            yield checked(LessonRow, asked(row, f"{path}:{number}"), f"{path}:{number}")


def supervised_examples(rows: Sequence[LessonRow], prompts: Prompts, end: int, most: int) -> list[SupervisedExample]:
    """The rows as examples, without those of more than `most` tokens. Raises DataError where none is left."""
    found = [lesson for row in rows if len((lesson := _lesson(row, prompts, end)).ids) <= most]
    if not found:
        raise DataError(f"lessons: none of {len(rows)} rows fits in {most} tokens")
    return found


def _lesson(row: LessonRow, prompts: Prompts, end: int) -> SupervisedExample:
    target = (*prompts.ids(row.target), end)
    if row.draft is None:
        return SupervisedExample("leader", prompts.leader(row.chat()), target, row.weight)
    prompt = prompts.follower(row.chat(), prompts.ids(row.draft), row.own, row.instruction)
    return SupervisedExample("follower", prompt, target, row.weight)


class HalvedModel:
    def __init__(self, model: Any, first: int) -> None:
        """`model`: of transformers, with what peft put into it. `first`: the first of the upper layers.

        Raises SettingsError where the layers are not alike or not where transformers' decoders have them.
        """
        body = model.base_model
        if not isinstance(getattr(body, "layers", None), nn.ModuleList) or not hasattr(body, "norm"):
            raise SettingsError(f"lora.layers: a {type(model).__name__} cannot be halved; leave lora.layers out")
        if not sees_all(model):
            raise SettingsError("lora.layers: this model's layers do not attend alike; leave lora.layers out")
        self._lower, self._upper = _part(body, body.layers[:first]), _part(body, body.layers[first:])
        self._lower.norm = nn.Identity()
        self._head = model.get_output_embeddings()
        self.device: torch.device = model.device

    @torch.no_grad()
    def states(self, ids: Ids) -> Tensor:
        """(T, H): what goes into the upper layers."""
        return self._of(self._lower(input_ids=torch.tensor([ids], device=self.device), use_cache=False))[0]

    def logits(self, states: Tensor, count: int) -> Tensor:
        """(count, V), float32: before each of the last `count` tokens; gradients end at `states`, (T, H)."""
        hidden = self._of(self._upper(inputs_embeds=states[None], use_cache=False))
        return torch.as_tensor(self._head(hidden[0, -count - 1 : -1]).float())

    @staticmethod
    def _of(output: Any) -> Tensor:
        return torch.as_tensor(output.last_hidden_state)


def _part(body: Any, layers: Sequence[nn.Module]) -> Any:
    """The body with these layers alone. All modules are shared."""
    part = copy.copy(body)
    part._modules = dict(body._modules)
    part.layers = nn.ModuleList(layers)
    return part


class Imitator(AdapterTrainer):
    """A step's lessons have one pass each: a CPU gains nothing from padding them together."""

    def __init__(self, student: Any, first_layer: int, lessons: Sequence[SupervisedExample], settings: Run) -> None:
        """`student`: a peft model whose adapter is on layers from `first_layer` on."""
        super().__init__(student, range(len(lessons)), settings)
        self._lessons = lessons
        self._halved = HalvedModel(student.get_base_model(), first_layer)
        self._states: dict[int, Tensor] = {}  # by lesson: (T, H), of the layers that do not learn
        self._keeps = first_layer > 0
        self._length = sum(len(lesson.target) for lesson in lessons) / len(lessons)
        self._autocast = settings.optimisation.autocast == "bfloat16"

    def learn(self, items: Sequence[int]) -> Tensor:
        self.model.eval()  # no dropout
        total = torch.zeros((), device=self.args.device)
        for number in items:
            loss = self._loss(number) / len(items)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _loss(self, number: int) -> Tensor:
        lesson = self._lessons[number]
        device = self.args.device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._autocast):
            logits = self._halved.logits(self._states_of(number), len(lesson.target))
        target = torch.tensor(lesson.target, device=device)
        nats = torch.nn.functional.cross_entropy(logits, target, reduction="none")  # (T,)
        self.pending[f"{lesson.role}/nats_per_token"] += nats.tolist()
        self.pending[f"{lesson.role}/first_token_nats"].append(nats[0].item())
        # By the mean length of all targets and not by each one's own, which would make a short one's tokens count more.
        return nats.sum() * lesson.weight / self._length

    def _states_of(self, number: int) -> Tensor:
        if number not in self._states:
            states = self._halved.states(self._lessons[number].ids)
            if not self._keeps:
                return states
            self._states[number] = states
        return self._states[number]


BUNDLE, ADAPTER = "bundle", "policy"
_LOG = logging.getLogger(__name__)


def imitate(settings: ImitateSettings, name: str) -> Bundle:
    """The bundle, which lies in `bundle` of the output directory. A run that was killed goes on.

    Raises SettingsError and DataError.
    """
    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise SettingsError(f"imitate runs in one process, and this is one of {processes}")
    if (target := settings.output_dir / BUNDLE).exists():
        raise SettingsError(f"output_dir: {target} exists already")
    last = goes_on_from(settings)
    rows = list(read_lessons(settings.lessons))
    _check_own(rows, settings.own_answers)
    tokenizer, base = load_causal(settings.model, DTYPES[settings.dtype])
    prompts = Prompts(tokenizer, settings.follower_turn, end_ids_of(base))
    lessons = supervised_examples(rows, prompts, tokenizer.eos_token_id, settings.max_tokens)
    _LOG.info("%d lessons of %d rows, %d tokens", len(lessons), len(rows), sum(len(one.ids) for one in lessons))
    trainer = Imitator(_student(base, settings), _first_layer(settings), lessons, settings)
    start_run(settings)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    silent = any(row.draft is not None and row.target.endswith(CLOSE_THOUGHT) for row in rows)
    return _bundle(settings, name, trainer.model, target, keeps_by_silence=silent)


def _check_own(rows: Sequence[LessonRow], settings: OwnAnswers | None) -> None:
    """Whether the bundle's Follower will have as many answers of its own as it learns with."""
    most = max((len(row.own) for row in rows), default=0)
    count = 0 if settings is None else settings.count
    if most != count:
        raise SettingsError(f"own_answers: the lessons have up to {most} own answers, and own_answers.count is {count}")


def _student(base: Any, settings: ImitateSettings) -> Any:
    torch.manual_seed(settings.seed)  # the adapter's first weights
    base.requires_grad_(False)
    if settings.start is not None:
        return PeftModel.from_pretrained(base, settings.start, is_trainable=True)
    return with_adapters(base, ["default"], settings.lora)


def _first_layer(settings: ImitateSettings) -> int:
    return 0 if settings.lora.layers is None else settings.lora.layers[0]


def _bundle(settings: ImitateSettings, name: str, model: Any, target: Path, *, keeps_by_silence: bool) -> Bundle:
    """It appears when it is whole."""
    staging = settings.output_dir / f".{BUNDLE}"
    shutil.rmtree(staging, ignore_errors=True)
    model.save_pretrained(staging / ADAPTER, save_embedding_layers=False)
    cast(staging / ADAPTER, torch.bfloat16)
    name_base(staging / ADAPTER, settings.model)
    is_here = Path(settings.model).is_dir()
    if is_here:
        shutil.copytree(settings.model, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST, CARD))
    role = RoleWeights(adapter=ADAPTER)
    manifest = Bundle(
        name=name,
        base_model="." if is_here else settings.model,
        leader=role,
        follower=role,
        follower_turn=settings.follower_turn,
        keeps_by_silence=keeps_by_silence,
        own_answers=settings.own_answers,
        sampling=settings.sampling,
        trained="imitation",
        training={key: value for key, value in portable(settings).items() if key != "output_dir"},
    )
    bundle = write_bundle(staging, manifest)
    staging.rename(target)
    return bundle
