"""The game's training: from settings to a run and its checkpoints, and from a checkpoint to a bundle.

Imported by distill and imitation.

Here is the configuration of `slhf-train fit`: one YAML file. An unknown key or a bad value stops it and is named.
Relative paths start at the configuration's own folder.
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from slhf import FOLLOWER_TURN
from slhf_training.config import ModelName, RelativePath, Section
from slhf_training.data.load import DataSettings
from slhf_training.fit.algorithms import ALGORITHMS, Algorithm, Game
from slhf_training.models import Lora
from slhf_training.preference import PreferenceSettings, SourceSettings
from slhf_training.rollout import RolloutSettings

DraftAnswers = Literal["all", "rejected"]


class Drafts(Section):
    """Drafts that other models wrote. The Follower refines them beside the Leader's, so that it learns to refine what
    it will meet; the Leader learns nothing from them."""

    data: tuple[DataSettings, ...] = Field(min_length=1)
    """Several, where each needs its own `where`."""
    answers: DraftAnswers = "all"
    """Each answer of a row is a draft, or only the worse one of a pair."""
    per_step: int = Field(default=8, gt=0)
    """Drafts per step and process, beside the chats of `batch_size`; no two processes have the same."""


class Optimisation(Section):
    steps: int = Field(default=500, gt=0)
    batch_size: int = Field(default=16, gt=0)
    """Chats per step and process."""
    micro_batch_size: int = Field(default=8, gt=0)
    """Answers per forward and backward pass."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """The learning rate of the Leader, or of shared weights."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """The last iterate drifts off the equilibrium at a constant rate: decay it."""
    warmup_steps: int = Field(default=0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0, allow_inf_nan=True)
    """Clips the gradient of each role; inf: no clipping."""
    autocast: Literal["none", "bfloat16"] = "none"
    gradient_checkpointing: bool = False
    """Less memory, a third more time."""


class Kept(Section):
    """Settings that lie beside what they made, and what is made goes on only under the same."""

    fixed: ClassVar[frozenset[str]] = frozenset()
    """Keys that say what it is, so that it does not go on under others."""

    output_dir: RelativePath


class Run(Kept):
    """What every training has."""

    fixed: ClassVar[frozenset[str]] = frozenset({"model", "weights", "lora"})

    optimisation: Optimisation = Optimisation()
    seed: int = Field(default=0, ge=0)
    save_every: int = Field(default=50, gt=0)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(default=2, gt=0)
    log_every: int = Field(default=1, gt=0)
    report_to: list[Literal["tensorboard", "wandb"]] = ["tensorboard"]


def _known(algorithm: str) -> str:
    if algorithm not in ALGORITHMS:
        raise ValueError(f"expected one of {', '.join(ALGORITHMS)}")
    return algorithm


class ValidationSettings(Section):
    """Win rates of both roles while they are trained (fit/validation.py)."""

    data: DataSettings
    """Chats that are not trained on; `part` cuts one source into parts that share no prompt."""
    preference: PreferenceSettings
    """Another judge than the training's: a policy learns what its own judge likes, whether it is good or not. Only a
    program's checks may be the same."""
    every: int = Field(default=50, gt=0)
    """Steps between validations, a multiple of `save_every`, so that the best step has a checkpoint. It is kept. The
    last step is validated, too."""
    patience: int | None = Field(default=None, gt=0)
    """Stop when so many validations in a row were not better than the best. None: never."""


_PROGRAMS = ("checked", "instructions")


class FitSettings(Run):
    fixed: ClassVar[frozenset[str]] = Run.fixed | {"algorithm"}
    model: ModelName = Field(min_length=1)
    """A chat model: a hub id, builtin:smollm2-135m, or a directory's path that starts with ".", "/" or "~"."""
    data: DataSettings
    """Only the chats are used."""
    drafts: Drafts | None = None
    """None: the Follower meets the Leader's drafts alone, as in the paper."""
    preference: PreferenceSettings
    """The judge."""
    algorithm: Annotated[str, AfterValidator(_known)] = "stackelberg"
    """One of fit/algorithms.py."""
    weights: Literal["separate", "shared", "full"] = "separate"
    """Two adapters, one adapter for both roles, or all weights of the model (both roles; the reference is a copy)."""
    lora: Lora = Lora()
    adapter: ModelName | None = Field(default=None, min_length=1)
    """A bundle, built in or a directory, or a checkpoint: training begins with its adapters, whose shape `lora` says.
    The reference is the base all the same. None: with adapters that change nothing yet."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The dtype of the base model. All weights are trained in float32, in which small steps are not lost: they compute
    in `optimisation.autocast`, and the reference is kept in `rollout.dtype`."""
    follower_turn: str = Field(default=FOLLOWER_TURN, min_length=1)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Keep the exponential moving average of the trained weights beside them, in which the weights after a step count
    so much less than those after the next one: at 0.99 it is mostly of the last 100 steps. `export --ema` takes it. It
    costs as much memory as the trained weights. None: no average."""
    validation: ValidationSettings | None = None
    """None: nobody looks before the run's end."""
    game: Game = Game()
    rollout: RolloutSettings = RolloutSettings()

    @property
    def plays(self) -> Algorithm:
        """The algorithm's record."""
        return ALGORITHMS[self.algorithm]

    @model_validator(mode="after")
    def _what_does_not_go_together(self) -> Self:
        if self.game.kl != "token" and self.game.kl_estimator != "k1":
            raise ValueError(f"game.kl_estimator: {self.game.kl_estimator!r} needs kl: token")
        if self.plays.needs_mixture and self.rollout.engine != "hf":
            has = f"as {self.algorithm} has to"
            raise ValueError(f"rollout.engine: {self.rollout.engine} cannot mix two models, {has}; use hf")
        if self.drafts is not None and not self.plays.takes_drafts:
            raise ValueError(f"drafts: {self.algorithm} has no Follower to refine them; use stackelberg")
        if self.validation is not None:
            if self.validation.every % self.save_every:
                raise ValueError(f"validation.every: {self.validation.every} is no multiple of save_every")
            asked = [set(_judges(one)) for one in (self.preference, self.validation.preference)]
            if shared := asked[0] & asked[1]:
                raise ValueError(f"validation.preference: the training asks {', '.join(sorted(shared))}, too")
        if self.weights == "full" and self.adapter is not None:
            raise ValueError("adapter: weights: full has none; name the merged bundle as model")
        if self.weights == "full" and self.dtype == "bfloat16":
            lost = "a weight of 0.02 takes no step below 6e-5 in it"
            raise ValueError(f"dtype: bfloat16 with weights: full: {lost}; use float32 and optimisation.autocast")
        if self.weights == "full" and self.rollout.engine == "vllm-server":
            raise ValueError("rollout.engine: vllm-server takes adapters, not all weights; use hf or vllm")
        return self


def _judges(preference: SourceSettings) -> Iterator[str]:
    """What judges: models, files and functions that the settings of a preference name, however deep."""
    if preference.kind not in _PROGRAMS:
        yield from _named(preference.model_dump(mode="json"))


def _named(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        if value.get("kind") == "remote-reward":
            yield value["url"]  # a judge's is that of a server that may have several models
        if value.get("kind") not in _PROGRAMS:
            for name, inner in value.items():
                yield from _named(inner, name)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _named(inner, key)
    elif isinstance(value, str) and key in ("model", "function", "backbone", "files"):
        yield value
