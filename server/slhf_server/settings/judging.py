"""Judges by name: who says which of two texts is the better answer, and how sure has to be what follows from it."""

import re
from typing import Literal, get_args

from pydantic import Field, model_validator

from slhf_server.settings.endpoints import EndpointSettings, PlainUrl
from slhf_server.settings.sections import Section

JudgeKind = Literal["upstream", "engine", "own_answers", "reward"]


class RewardSettings(EndpointSettings):
    """A reward model behind HTTP, as training's preference `remote-reward` asks it."""

    base_url: PlainUrl
    """Where it is asked, as a whole: `POST` with `{"conversations": [...]}`, answered by `{"rewards": [...]}`."""
    scale: float = Field(default=1.0, gt=0)
    """A difference of rewards of this size is p = 0.73."""


class OwnAnswersSettings(Section):
    """Answers of the loaded Leader that are written without a look at any text that is judged."""

    count: int = Field(default=8, ge=2, le=64)
    """How many, all at once. Two for one result and none for the other are p = .75, eight are .9."""
    temperature: float = Field(default=0.5, gt=0, le=2)
    """Without any they would be one answer."""
    max_tokens: int = Field(default=384, gt=0)
    """Of each; one that is longer does not count."""


class JudgeSettings(Section):
    """A judge: exactly one of `upstream`, `engine`, `own_answers` and `reward` says who it is."""

    upstream: str | None = None
    """The upstream that is asked for one letter, in both orders."""
    engine: Literal["own"] | None = None
    """`own`: the loaded weights are, as the Leader. In a merged bundle these are the Follower's own weights."""
    own_answers: OwnAnswersSettings | None = None
    """The loaded weights answer for themselves, as the Leader, and the result that more of these answers give wins."""
    reward: RewardSettings | None = None
    """A reward model behind HTTP."""
    margin: float = Field(default=0.6, gt=0.5, le=1)
    """How probably a round has to be better than the text before it, to take its place."""
    sure: float = Field(default=0.9, gt=0.5, le=1)
    """How probably it has to be for `judge_sure`, where the bundle does not say."""

    @property
    def kind(self) -> JudgeKind:
        (kind,) = self._kinds
        return kind

    @property
    def on_engine(self) -> bool:
        """Whether the engine in this process is asked."""
        return self.kind in ("engine", "own_answers")

    @property
    def _kinds(self) -> list[JudgeKind]:
        return [kind for kind in get_args(JudgeKind) if getattr(self, kind) is not None]

    @model_validator(mode="after")
    def _is_one(self) -> "JudgeSettings":
        if len(self._kinds) != 1:
            raise ValueError("give exactly one of upstream, engine, own_answers and reward")
        return self


def judge_name(name: str) -> str:
    """The name, if it fits: it is a label of metrics and a part of variables. Raises ValueError."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise ValueError("a judge's name has lower-case letters, digits, '.', '_' and '-'")
    return name
