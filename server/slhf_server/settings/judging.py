"""Judges by name: who says which of two texts is the better answer, and how sure has to be what follows from it."""

import re
from typing import Literal

from pydantic import Field, model_validator

from slhf_server.settings.endpoints import EndpointSettings, PlainUrl
from slhf_server.settings.sections import Section

JudgeKind = Literal["upstream", "engine", "reward"]


class RewardSettings(EndpointSettings):
    """A reward model behind HTTP, as training's preference `remote-reward` asks it."""

    base_url: PlainUrl
    """Where it is asked, as a whole: `POST` with `{"conversations": [...]}`, answered by `{"rewards": [...]}`."""
    scale: float = Field(default=1.0, gt=0)
    """A difference of rewards of this size is p = 0.73."""


class JudgeSettings(Section):
    """A judge: exactly one of `upstream`, `engine` and `reward` says who it is."""

    upstream: str | None = None
    """The upstream that is asked for one letter, in both orders."""
    engine: Literal["own"] | None = None
    """`own`: the loaded weights are, as the Leader. In a merged bundle these are the Follower's own weights."""
    reward: RewardSettings | None = None
    """A reward model behind HTTP."""
    margin: float = Field(default=0.6, gt=0.5, le=1)
    """How probably a round has to be better than the text before it, to take its place."""
    sure: float = Field(default=0.9, gt=0.5, le=1)
    """How probably it has to be for `judge_sure`, where the bundle does not say."""

    @property
    def kind(self) -> JudgeKind:
        return "upstream" if self.upstream is not None else "engine" if self.engine is not None else "reward"

    @model_validator(mode="after")
    def _is_one(self) -> "JudgeSettings":
        if sum(one is not None for one in (self.upstream, self.engine, self.reward)) != 1:
            raise ValueError("give exactly one of upstream, engine and reward")
        return self


def judge_name(name: str) -> str:
    """The name, if it fits: it is a label of metrics and a part of variables. Raises ValueError."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise ValueError("a judge's name has lower-case letters, digits, '.', '_' and '-'")
    return name
