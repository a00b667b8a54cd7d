"""Two teachers' roles into one bundle: a Leader and a Follower that were trained apart, or to different lengths.

No other room imports it.

A Leader that the Follower beats stays nearer to the base than its Follower, so one run's adapter is not both. Here the
teachers write, and an adapter learns the next-token distributions on what they wrote (policy distillation, arXiv
1511.06295; full distributions as in arXiv 1503.02531): of both roles at once, or of the Follower alone, which then
also learns what a choice made of its answers.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from slhf_training.config import ModelName, Section
from slhf_training.data.load import DataSettings
from slhf_training.evaluation import GenerationSettings
from slhf_training.fit import Run
from slhf_training.preference import PreferenceSettings


class BestOf(Section):
    """Learn the most preferred of several refinements of a draft, instead of each of them."""

    samples: int = Field(default=4, gt=1)
    preference: PreferenceSettings
    share: float = Field(default=0.5, gt=0, le=1)
    """How much of the target is the chosen answer's own tokens; the rest is the teacher's distribution."""
    edit_cost: float = Field(default=0.0, ge=0, le=0.5)
    """Taken off an answer's mean preference, times the share of words that are not the draft's: of answers that are as
    good the nearest is chosen. Up to 0.5 none that fails its check wins over one that passes (kind: checked)."""


class DistillSettings(Run):
    leader: ModelName
    """The bundle whose Leader is learnt."""
    follower: ModelName
    """The bundle whose Follower is learnt. Both have the same vocabulary."""
    weights: Literal["shared", "separate"] = "shared"
    """One adapter for both roles, which merges at load; or the Follower alone is learnt, in an adapter beside the one
    that the Leader has. Separate ones need the same base."""
    start: ModelName | None = None
    """The bundle whose Follower's adapter the new one starts from; the base is `follower`'s. None: its own, too."""
    share: float = Field(default=1, gt=0, le=1)
    """How much of the way from its start to what it learnt the adapter goes, in both factors of each LoRA. A part of
    the way often keeps most of what was learnt last and forgets less (LITI in WARP, arXiv 2406.16768)."""
    prompts: tuple[DataSettings, ...] = Field(min_length=1)
    """The Leader answers these, and the Follower refines what it wrote."""
    drafts: tuple[DataSettings, ...] = ()
    """Every answer in these is a draft for the Follower, too."""
    rounds: int = Field(default=1, gt=0)
    """How many of the Follower's rounds on each draft are learnt: the second one's draft is the first one's answer."""
    max_prompt_tokens: int = Field(default=512, gt=0)
    """Tokens of a role's whole prompt; what needs more is counted and dropped."""
    best_of: BestOf | None = None
    generation: GenerationSettings = GenerationSettings()
    """How the teachers write. The temperature is also that of the distributions that are learnt."""

    @model_validator(mode="before")
    @classmethod
    def _repairs_are_gone(cls, given: Any) -> Any:
        if isinstance(given, dict) and "repairs" in given:
            raise ValueError("repairs: version 0.1.0 was the last that repaired answers; leave the key out")
        return given
