"""The configuration of `slhf-train lessons`: one YAML file. Relative paths start at the configuration's own folder."""

from typing import Literal, Self

from pydantic import Field, model_validator

from slhf_training.config_file import ModelName, RelativePath, Section
from slhf_training.data import DataSettings
from slhf_training.evaluation.settings import GenerationSettings


class Samples(Section):
    """Answers of a model, of which those that pass their check are targets, before any reference."""

    bundle: ModelName
    count: int = Field(default=4, gt=0)
    """Of each prompt and of each wrong draft."""
    generation: GenerationSettings = GenerationSettings()


class LeaderLessons(Section):
    data: DataSettings
    """Rows that can be checked, or that have a reference."""
    references: bool = True
    """Whether a reference is the target where no sample passes."""


class FollowerLessons(Section):
    data: DataSettings
    """Rows that can be checked."""
    drafts: Literal["given", "reference", "sampled"] = "given"
    """The rows' own drafts; their references, which a Follower has to leave alone; or samples of the Leader."""
    right: int = Field(default=1000, ge=0)
    """At most so many right drafts, one of a prompt: their target is the draft."""
    wrong: int = Field(default=1000, ge=0)
    """At most so many wrong drafts, one of a prompt: their target is a sample that passes, or the reference."""
    references: bool = True
    """Whether a reference is the target where no sample passes."""


class LessonsSettings(Section):
    output_dir: RelativePath
    seed: int = Field(default=0, ge=0)
    """Of the choice of drafts, and of the order of lessons."""
    samples: Samples | None = None
    """None: references and drafts are the only targets."""
    leader: tuple[LeaderLessons, ...] = ()
    follower: tuple[FollowerLessons, ...] = ()

    @model_validator(mode="after")
    def _what_does_not_go_together(self) -> Self:
        if not self.leader and not self.follower:
            raise ValueError("name at least one of leader and follower")
        if self.samples is None and any(source.drafts == "sampled" for source in self.follower):
            raise ValueError("follower: drafts: sampled needs samples")
        return self
