"""Settings: flags > `SLHF_*` environment > YAML file > default. Read once at start; no request changes them."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
import yaml
from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from slhf_server.errors import SettingsError

BUILTIN = "builtin:smollm2-135m"
_NOT_OURS = {"SLHF_VENV", "SLHF_EXTRA", "SLHF_BASE_URL", "SLHF_API_KEY", "SLHF_MODEL"}
"""Environment variables of the scripts and of the client, which the server meets too."""

_ANY_HTTP_URL = TypeAdapter(AnyHttpUrl)

HttpUrl = Annotated[str, AfterValidator(lambda url: str(_ANY_HTTP_URL.validate_python(url)))]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RefineLimits(_Section):
    """What one request may ask for; each is also settable per served model."""

    rounds: int = Field(default=8, ge=0)
    """Follower rounds."""
    max_total_tokens: int = Field(default=131_072, gt=0)
    """Prompt plus completion tokens over all rounds."""
    timeout_ms: int = Field(default=600_000, gt=0)
    """Whole request, queueing included."""


class ServerLimits(RefineLimits):
    choices: int = Field(default=8, gt=0)
    """Answers to one chat request (`n`)."""
    body_bytes: int = Field(default=4 << 20, gt=0)
    """Request body."""
    running: int = Field(default=256, gt=0)
    """Refinements at work at once."""
    waiting: int = Field(default=1024, ge=0)
    """Refinements queued behind them; one more is answered 429."""


class ServedModel(_Section):
    """A virtual model: who drafts, who refines, how often."""

    leader: Literal["follower-engine", "none"] = "follower-engine"
    """`follower-engine`: the bundle's Leader; `none`: every request must bring a draft."""
    follower: Literal["engine"] = "engine"
    rounds: int = Field(default=1, ge=0)
    """Where the request does not say."""
    images: Literal["text", "pass_through"] = "text"
    """Where a conversation holds images: refine by its text parts, or return the draft as it is."""
    limits: RefineLimits = RefineLimits()
    """The values set here replace the server's."""


class Settings(BaseSettings):
    """Every setting of the server."""

    model_config = SettingsConfigDict(
        env_prefix="SLHF_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        cli_prog_name="slhf-server",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    config: Path | None = Field(default=None, description="YAML file with these same settings")
    bundle: str = Field(default=BUILTIN, description="builtin:smollm2-135m, a bundle or model directory, or a hub id")
    host: str = Field(default="127.0.0.1", description="address to bind")
    port: int = Field(default=8000, ge=0, le=65535, description="port to bind; 0 takes a free one")
    models: dict[str, ServedModel] = Field(
        default={}, description="served models by name; none: one named as the bundle"
    )
    limits: ServerLimits = Field(default=ServerLimits(), description="limits of every request")
    speculation: Literal["auto", "on", "off"] = Field(
        default="auto", description="draft as speculation (n-gram); auto: where tests prove it exact"
    )
    engine: dict[str, Any] = Field(default={}, description="vLLM engine arguments by vLLM's names, passed through")
    grace_period_s: float = Field(default=30.0, ge=0, description="time for running requests after SIGTERM, seconds")
    ping_interval_s: float = Field(default=10.0, gt=0, le=10, description="comment in silent streams, seconds")
    cache_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_cache_dir("slhf")), description="the converted built-in model"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="of the server's log")
    otlp_endpoint: HttpUrl | None = Field(
        default=None, description="URL of an OpenTelemetry collector (OTLP over HTTP) that gets traces; none: no traces"
    )
    trace_content: bool = Field(default=False, description="traces hold prompts, drafts and answers too")

    def redacted(self) -> dict[str, Any]:
        """For the log: engine arguments that sound like a secret are hidden, and a URL's user and password."""
        shown = self.model_dump(mode="json")
        for name in shown["engine"]:
            if re.search("token|key|password|secret", name, re.IGNORECASE) and isinstance(shown["engine"][name], str):
                shown["engine"][name] = "***"
        if self.otlp_endpoint is not None:
            shown["otlp_endpoint"] = re.sub("//[^/]*@", "//***@", self.otlp_endpoint)
        return shown

    def served(self, bundle_name: str) -> dict[str, ServedModel]:
        """The served models, the default one first."""
        return self.models or {bundle_name: ServedModel(rounds=min(ServedModel().rounds, self.limits.rounds))}

    def limits_of(self, model: ServedModel) -> RefineLimits:
        """The server's limits with the model's own in their place."""
        return self.limits.model_copy(update=model.limits.model_dump(exclude_unset=True))

    @field_validator("engine")
    @classmethod
    def _typed(cls, engine: dict[str, Any]) -> dict[str, Any]:
        """Flags and environment variables bring text: read it as the YAML file would."""
        try:
            return {key: yaml.safe_load(value) if isinstance(value, str) else value for key, value in engine.items()}
        except yaml.YAMLError as exc:
            raise ValueError(f"a value is not YAML: {exc}") from exc

    @model_validator(mode="after")
    def _rounds_within_limits(self) -> "Settings":
        """What a model plays by default is not checked again in each request."""
        for name, model in self.models.items():
            limit = self.limits_of(model).rounds
            if model.rounds > limit:
                raise SettingsError(
                    f"models.{name}.rounds: {model.rounds} is above the model's limit of {limit} rounds"
                )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, _ConfigFile(settings_cls))


class _ConfigFile(PydanticBaseSettingsSource):
    """The YAML file that a flag or the environment names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the file is read whole, in __call__

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("config")
        if path is None:
            return {}
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
            raise SettingsError(f"config {path}: {exc}") from exc
        if content is not None and not isinstance(content, dict):
            raise SettingsError(f"config {path}: must be a mapping of settings, not {type(content).__name__}")
        return {str(key): value for key, value in (content or {}).items()}


def load_settings(argv: Sequence[str]) -> Settings:
    """Settings from all sources. Raises SettingsError naming key and value; a bad flag exits with usage."""
    for variable in os.environ:  # pydantic-settings reads them in either case
        if variable.upper().startswith("SLHF_") and not _is_known(variable.upper()):
            raise SettingsError(f"environment variable {variable}: no such setting")
    try:
        return Settings(_cli_parse_args=list(argv))
    except ValidationError as exc:
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in exc.errors())
        raise SettingsError("; ".join(problems)) from exc
    except SourceError as exc:
        raise SettingsError(f"{exc}: {exc.__cause__}") from exc


def _is_known(variable: str) -> bool:
    """Whether an upper-case environment variable is a setting of ours, or belongs to the scripts or the client."""
    name, *nested = variable.removeprefix("SLHF_").split("__")
    if name.lower() not in Settings.model_fields:
        return variable in _NOT_OURS
    return not nested or name.lower() in ("models", "limits", "engine")
