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
    """Answers of a model. Those that pass their check become targets; a reference does where none passes."""

    bundle: ModelName
    count: int = Field(default=4, gt=0)
    """How many answers the model writes to each prompt and to each wrong draft."""
    generation: GenerationSettings = GenerationSettings()
    turns: tuple[Turn, ...] = ()
    """Turns that stand before each prompt which is answered without a draft: how to answer (`system`), and worked
    examples. The lesson itself has the prompt alone. A `system` turn here does not go with prompts that begin with one
    of their own."""


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
    """Most lessons of right drafts, one for each prompt; their target is the draft."""
    wrong: int = Field(default=1000, ge=0)
    """Most lessons of wrong drafts, one for each prompt; their target is a sample that passes, or the reference."""
    references: bool = True
    """Whether a reference is the target where no sample passes."""
    thoughts: bool = False
    """The Follower learns to think before it decides. Where a check looks for a result (number, exact, accepted), it
    writes down the results of the draft and of its own answers, and the server counts them (thoughts.py). Of a program
    it says whether it stays (traced.py), and of instructions which ones the draft follows (listed.py). A draft without
    a check stays. Where a draft stays, nothing follows the thoughts: a bundle that learns this has `keeps_by_silence`
    in its manifest."""
    own_answers: int = Field(default=4, ge=0, le=16)
    """With thoughts: how many samples of the Leader stand beside each draft at most, as the bundle's own answers will
    (`own_answers` of imitate). Where the thoughts lead to a text in place of a wrong draft, it is one of these."""
    first_looks: int = Field(default=0, ge=0)
    """With thoughts: most further lessons of drafts alone, one for each prompt, for a bundle whose `own_answers` has a
    `first_look`. Where a check looks for a result, the Follower writes down the draft's; of any other it says that it
    stays, so that the server writes no own answers."""


class LessonsSettings(Section):
    output_dir: RelativePath
    seed: int = Field(default=0, ge=0)
    """The seed of the choice of drafts and of the order of lessons."""
    samples: Samples | None = None
    """Where there are none, references and drafts are the only targets."""
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
        if any(source.first_looks and not source.thoughts for source in self.follower):
            raise ValueError("follower: first_looks are thoughts; take thoughts: true")
        return self
