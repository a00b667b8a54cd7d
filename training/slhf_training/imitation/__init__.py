"""Supervised learning of both roles in one adapter: what an answer, or a refinement of a draft, should have been.

No other room imports it.
"""

from typing import Literal

from pydantic import Field

from slhf import FOLLOWER_TURN, OwnAnswers, SamplingDefaults
from slhf_training.config import ModelName, RelativePath
from slhf_training.fit import Run
from slhf_training.models import Lora


class ImitateSettings(Run):
    model: ModelName = Field(min_length=1)
    """A chat model: a hub id, a builtin, or a directory's path that starts with ".", "/" or "~"."""
    start: RelativePath | None = None
    """A folder with an adapter of the same shape to go on from; None: one that changes nothing yet."""
    lessons: tuple[RelativePath, ...] = Field(min_length=1)
    """JSONL(.gz), as `slhf-train lessons` writes it (run.py)."""
    lora: Lora = Lora()
    """One adapter for both roles. `layers` leaves the lower ones alone, and what those say is computed once."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """The dtype of the frozen base; the adapter learns in float32."""
    follower_turn: str = Field(default=FOLLOWER_TURN, min_length=1)
    own_answers: OwnAnswers | None = None
    """What the bundle's Follower writes for itself before each round; the lessons' rows hold such answers (`own`)."""
    max_tokens: int = Field(default=1024, gt=0)
    """Tokens of a lesson's prompt and target; what needs more is counted and dropped."""
    sampling: SamplingDefaults = SamplingDefaults(temperature=0.3, max_tokens=1024)
    """How the bundle is served where a request is silent."""
