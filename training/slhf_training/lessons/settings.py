"""The configuration of `slhf-train lessons`: one YAML file. Relative paths start at the configuration's own folder."""

from typing import Literal, Self

from pydantic import Field, model_validator

from slhf_training.config import ModelName, RelativePath, Section
from slhf_training.data.load import DataSettings
from slhf_training.evaluation import GenerationSettings


class Turn(Section):
    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1)


class Samples(Section):
    """Answers of a model, of which those that pass their check are targets, before any reference."""

    bundle: ModelName
    count: int = Field(default=4, gt=0)
    """Of each prompt and of each wrong draft."""
    generation: GenerationSettings = GenerationSettings()
    turns: tuple[Turn, ...] = ()
    """Stand before each prompt that is answered without a draft: how to answer (`system`), and worked examples. What is
    learnt is the answer to the prompt alone. Prompts that begin with a system turn of their own do not go with one."""


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
    thoughts: bool = False
    """The Follower learns to think before it decides. Where a check looks for a result (number, exact, accepted), it
    says the results of the draft and of its own answers, which the server counts (thoughts.py); of a program it says
    whether it stays (traced.py). Of instructions it thinks which ones the draft follows (listed.py), and what has no
    check stays. Where a draft stays, nothing follows the thoughts: the bundle that learns it keeps by silence."""
    own_answers: int = Field(default=4, ge=0, le=16)
    """With thoughts: so many samples of the Leader at most stand beside each draft, as the bundle's own answers will
    (`own_answers` of imitate). Samples of the Leader are also what a wrong draft becomes."""


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
        if self.samples is None and any(source.thoughts for source in self.follower):
            raise ValueError("follower: thoughts need samples")
        return self
