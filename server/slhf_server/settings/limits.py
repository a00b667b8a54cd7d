"""What requests may ask for, and how many there may be."""

import re

from pydantic import Field, SecretStr, field_validator

from slhf_server.settings.sections import Section


class RefineLimits(Section):
    """What one request may ask for; each is also settable per served model."""

    rounds: int = Field(default=8, ge=0)
    """Follower rounds."""
    max_total_tokens: int = Field(default=131_072, gt=0)
    """Prompt plus completion tokens over all rounds."""
    timeout_ms: int = Field(default=600_000, gt=0)
    """Time for the whole request, queueing included."""


class ServerLimits(RefineLimits):
    """Limits of requests, and of how many there may be."""

    choices: int = Field(default=8, gt=0)
    """Answers to one chat request (`n`)."""
    body_bytes: int = Field(default=4 << 20, gt=0)
    """Size of a request's body."""
    running: int = Field(default=256, gt=0)
    """Refinements at work at once."""
    waiting: int = Field(default=1024, ge=0)
    """Refinements queued behind them; one more is answered 429."""
    key_requests_per_minute: int | None = Field(default=None, gt=0)
    """Requests per minute of each API key that has no limit of its own; None: unlimited."""
    key_concurrency: int | None = Field(default=None, gt=0)
    """Requests at once of each API key that has no limit of its own; None: unlimited."""
    key_tokens_per_day: int | None = Field(default=None, gt=0)
    """Tokens per day (UTC) of each API key that has no limit of its own; None: unlimited."""
    store: SecretStr | None = None
    """A Redis or Valkey server that counts rates and days' tokens for all replicas; None: each counts by itself."""

    @field_validator("store")
    @classmethod
    def _is_an_address(cls, store: SecretStr | None) -> SecretStr | None:
        if store is not None and not re.match(r"(redis|rediss)://[^/\s]|unix:///", store.get_secret_value()):
            raise ValueError("must be redis://HOST:PORT/NUMBER, rediss://... or unix:///PATH")
        return store
