"""What `GET /v1/models` answers: OpenAI's list, with what is to be known of each served model."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Card(BaseModel):
    """A newer server may say more than an older client knows."""

    model_config = ConfigDict(extra="ignore")


class ModelLimits(_Card):
    """What a request to a served model may ask for at most."""

    rounds: int
    max_total_tokens: int
    timeout_ms: int


class JudgeCard(_Card):
    """The judge of a served model."""

    name: str
    kind: str
    """`upstream`, `reward`, or `engine` and `own_answers`: the served weights themselves, in a merged bundle the
    Follower's own."""


class ModelCard(_Card):
    """One entry of `GET /v1/models`: OpenAI's shape, vLLM's extras, and the bundle's card."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "slhf"
    root: str
    """The base model."""
    parent: str | None = None
    max_model_len: int | None = None
    """Tokens of prompt and completion together; None while the engine is loading."""
    card: dict[str, Any] = {}
    drafts: bool = True
    """Whether the model writes a draft where the request brings none."""
    rounds: int | None = None
    """Follower rounds of a request that does not say how many."""
    limits: ModelLimits | None = None
    judge: JudgeCard | None = None
    """Who is asked by `select` and `stop_when`; None: nobody can be."""
    profile: str | None = None
    """Of a request that names none."""
    profiles: list[str] = []
    """All that a request may name."""


class ModelList(_Card):
    object: Literal["list"] = "list"
    data: list[ModelCard]
