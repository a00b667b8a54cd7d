"""Addresses of other servers: upstreams, which may be a Leader, and remote engines, which may be a Follower."""

import re
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    Field,
    JsonValue,
    PrivateAttr,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode

from slhf_server.settings.key_files import read_key
from slhf_server.settings.sections import Section, UserPath

NO_UPSTREAM = ("follower-engine", "none")
"""Names of Leaders that are no upstreams."""
OWN_ENGINE = "engine"
"""The name of the Follower's engine in this process."""


def _plain_url(url: AnyHttpUrl) -> AnyHttpUrl:
    """The URL, if it holds no secret and a path can be appended to it."""
    if url.username or url.password or url.query or url.fragment:
        raise ValueError("must have no user, password, query or fragment; the key is api_key")
    return url


PlainUrl = Annotated[AnyHttpUrl, AfterValidator(_plain_url)]
_REQUIRED = {"model", "messages", "stream"}
"""Fields that every request needs."""
_HEADERS = {"authorization", "connection", "content-length", "content-type", "host", "transfer-encoding"}
"""Headers that are the server's to set."""


class EndpointSettings(Section):
    """How any other server is asked."""

    api_key: SecretStr | None = None
    api_key_file: UserPath | None = None
    """A file that holds the key. It is read once, at start."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Seconds without a byte from the server."""
    max_retries: int = Field(default=2, ge=0, le=10)
    """Further attempts after one that failed before its answer began."""
    max_concurrent: int = Field(default=64, gt=0)
    """Requests to an address at once; others wait until their deadline."""
    breaker_failures: int = Field(default=5, gt=0)
    """Failed attempts in a row after which an address is left alone."""
    breaker_cooldown_s: float = Field(default=30.0, gt=0)
    """Seconds for which it is left alone before one attempt is made."""
    extra_headers: dict[str, SecretStr] = {}
    """Further headers of every request."""
    _key: SecretStr | None = PrivateAttr(None)

    def key(self) -> SecretStr | None:
        """The key, whether it was given itself or in a file; None: none is sent."""
        return self._key

    @field_validator("extra_headers")
    @classmethod
    def _adds_to_the_head(cls, extra: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in extra.items():
            if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII) or name.lower() in _HEADERS:
                raise ValueError(f"{name!r} is no name for a header of yours; a bearer's key is api_key")
            if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value.get_secret_value()):
                raise ValueError(f"{name}: the value is empty, or no header's: letters of ASCII, no space at its ends")
        return extra

    @model_validator(mode="after")
    def _read_key(self) -> "EndpointSettings":
        self._key = read_key("api_key", self.api_key, self.api_key_file)
        return self


class UpstreamSettings(EndpointSettings):
    """An OpenAI-compatible endpoint that may be a Leader."""

    base_url: PlainUrl
    """The address with its version, as OpenAI's clients want it: `https://api.openai.com/v1`."""
    model: str = Field(min_length=1)
    """The model's name on that server."""
    max_tokens_parameter: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    """The upstream's name for the limit of completion tokens."""
    max_output_tokens: int = Field(default=4096, gt=0)
    """The most tokens its model can write. A budget (`max_total_tokens`) at or above this is not sent as a limit."""
    opens_thought: bool = False
    """Whether its model's prompt opens the thoughts, so that answers hold only the closing `</think>` (DeepSeek-R1)."""
    extra_body: dict[str, JsonValue] = Field(default={}, repr=False)
    """Further fields of every request's JSON (`chat_template_kwargs`, a provider's options), which win over others."""
    omit: tuple[str, ...] = ()
    """Fields of a request's JSON that are never sent, even where a client asks for them."""

    @field_validator("extra_body")
    @classmethod
    def _adds_to_the_body(cls, extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if named := _REQUIRED & extra.keys():
            raise ValueError(f"{', '.join(sorted(named))}: set by the server for each request")
        return extra

    @field_validator("omit")
    @classmethod
    def _leaves_the_request_whole(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name in _REQUIRED or not re.fullmatch(r"\w+", name):
                raise ValueError(f"{name!r} cannot be left out: no request is one without it, or it is no field's name")
        return names


class RemoteEngineSettings(EndpointSettings):
    """A vLLM server, or several that serve the same, on which a bundle's roles run."""

    base_url: Annotated[tuple[PlainUrl, ...], NoDecode] = Field(min_length=1)
    """The address with its version (`http://vllm:8000/v1`), or a list of them."""
    model: str = Field(min_length=1)
    """The base model's name on that server."""
    tokenizer: str = Field(min_length=1)
    """What `bundle` would be: where the tokenizer and the bundle's manifest are. No weights are read."""
    adapter: str | None = Field(default=None, min_length=1)
    """The name of the Follower's adapter on that server; None: `model` holds it, or there is none."""
    priority: int = Field(default=0, ge=-(2**31), lt=2**31)
    """What a Follower's round adds to its request's `priority` (vLLM's: lower is sooner), for a server with
    `--scheduling-policy priority`."""

    @field_validator("base_url", mode="before")
    @classmethod
    def _one_or_several(cls, urls: object) -> object:
        """Read text as addresses with commas or spaces between them: variables have no lists."""
        return re.split(r"[,\s]+", urls.strip()) if isinstance(urls, str) else urls

    @field_validator("base_url")
    @classmethod
    def _each_once(cls, urls: tuple[AnyHttpUrl, ...]) -> tuple[AnyHttpUrl, ...]:
        if len(set(urls)) < len(urls):
            raise ValueError("an address stands there twice")
        return urls


def upstream_name(name: str) -> str:
    """The name, if it fits: it is a label of metrics and a part of variables, which are read in lower case.

    Raises ValueError.
    """
    if name in NO_UPSTREAM:
        raise ValueError(f"{name!r} means another Leader: call the upstream something else")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise ValueError("an upstream's name has lower-case letters, digits, '.', '_' and '-'")
    return name


def engine_name(name: str) -> str:
    """As `upstream_name`, for a remote engine."""
    if name in (*NO_UPSTREAM, OWN_ENGINE):
        raise ValueError(f"{name!r} has a meaning of its own: call the remote engine something else")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise ValueError("a remote engine's name has lower-case letters, digits, '.', '_' and '-'")
    return name
