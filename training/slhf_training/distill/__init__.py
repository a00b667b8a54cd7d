"""Distillation: a Leader and a Follower that were trained apart, or for unlike numbers of steps, become one bundle.

No other room imports it.

A Leader that its Follower can beat has to stay nearer to the base than the Follower goes, so one adapter of one run
does not serve both. Here both teachers write, and an adapter learns their next-token distributions on what they wrote
(policy distillation, arXiv 1511.06295; full distributions as in arXiv 1503.02531). It learns both roles at once, or
the Follower alone. With `best_of`, the best of several refinements is learnt.
"""

from typing import Any, ClassVar, Literal

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
    """This, times the share of an answer's words that are not the draft's, is taken off its mean preference: of answers
    that are equally good, the one nearest to the draft is chosen. Up to 0.5, no answer that fails its check wins over
    one that passes (kind: checked)."""


class DistillSettings(Run):
    fixed: ClassVar[frozenset[str]] = frozenset({"leader", "follower", "start", "weights"})
    leader: ModelName
    """The bundle whose Leader is learnt."""
    follower: ModelName
    """The bundle whose Follower is learnt. Both have the same vocabulary."""
    weights: Literal["shared", "separate"] = "shared"
    """`shared`: one adapter for both roles, which is merged into the base when the bundle is served. `separate`: the
    Follower alone is learnt, in an adapter beside the Leader's own, and both bundles need the same base."""
    start: ModelName | None = None
    """The bundle from whose Follower's adapter the new one starts; the base is always that of `follower`. None starts
    from the adapter of `follower`."""
    share: float = Field(default=1, gt=0, le=1)
    """How much of the way from its start to what it learnt the adapter goes, in both factors of each LoRA. A part of
    the way often keeps most of what was learnt last and forgets less (LITI in WARP, arXiv 2406.16768)."""
    prompts: tuple[DataSettings, ...] = Field(min_length=1)
    """The Leader answers these, and the Follower refines what it wrote."""
    drafts: tuple[DataSettings, ...] = ()
    """Every answer in these is another draft for the Follower."""
    rounds: int = Field(default=1, gt=0)
    """How many of the Follower's rounds on each draft are learnt; a round's first answer is the next one's draft."""
    max_prompt_tokens: int = Field(default=512, gt=0)
    """Most tokens of a role's whole prompt; a lesson that needs more is counted and dropped."""
    best_of: BestOf | None = None
    generation: GenerationSettings = GenerationSettings()
    """How the teachers write. The temperature is also that of the distributions that are learnt."""

    @model_validator(mode="before")
    @classmethod
    def _repairs_are_gone(cls, given: Any) -> Any:
        if isinstance(given, dict) and "repairs" in given:
            raise ValueError("repairs: version 0.1.0 was the last that repaired answers; leave the key out")
        return given
