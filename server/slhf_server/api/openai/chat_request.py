"""OpenAI's chat request. The table in parameters.py decides what becomes of each of its parameters."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr, Tag, model_validator
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from slhf.history import STRING_OR_LIST, Message
from slhf.wire import Priority, RefineOptions, Section, Temperature, TopP, given
from slhf_server.api.openai.parameters import CHAT, OF_THE_ENGINE
from slhf_server.api.parameter import check_drafter, document, filter_parameters
from slhf_server.api.planning import IN_REFINE
from slhf_server.models.base import SamplingParams
from slhf_server.refinement.job import Drafter, Endpoint
from slhf_server.refinement.planner import RefineParams

Item = TypeVar("Item")
TokenId = Annotated[StrictInt, Field(ge=0, lt=2**31)]
Count = Annotated[StrictInt, Field(gt=0)]
Bias = Annotated[float, Field(ge=-100, le=100, strict=True)]
StopStrings = Annotated[
    Annotated[StrictStr, Tag("string")] | Annotated[list[StrictStr], Field(max_length=16), Tag("list")], STRING_OR_LIST
]
Penalty = Annotated[float, Field(ge=-2, le=2, strict=True)]


class StreamOptions(Section):
    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False
    """OpenAI pads its chunks against traffic analysis unless told not to; this server never does."""
    continuous_usage_stats: StrictBool = False
    """vLLM then repeats the usage so far in every chunk; this server tells it once, at the end."""


class GenerationRequest(Section):
    """What chat and completions have in common."""

    model: StrictStr | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    n: Count | None = None
    refine: RefineOptions = Field(default_factory=RefineOptions)
    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_tokens: Count | None = None
    stop: StopStrings | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    priority: Priority | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    top_k: Annotated[StrictInt, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, strict=True)] | None = None
    min_tokens: Annotated[StrictInt, Field(ge=0, lt=2**31)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2, strict=True)] | None = None
    ignore_eos: StrictBool | None = None
    logit_bias: Annotated[dict[StrictStr, Bias], BeforeValidator(given)] | None = None
    bad_words: Annotated[list[StrictStr], Field(fail_fast=True)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True)] | None = None
    allowed_token_ids: Annotated[list[TokenId], Field(fail_fast=True)] | None = None
    include_stop_str_in_output: StrictBool | None = None
    skip_special_tokens: StrictBool | None = None
    upstream_params: SkipJsonSchema[dict[str, Any]] = Field(default_factory=dict)
    """What an upstream takes, by name, as it came: chat alone has such parameters."""

    def params(self, endpoint: Endpoint, request_id: str, messages: Sequence[Message]) -> RefineParams:
        """What is asked for, whatever the endpoint."""
        return RefineParams(
            endpoint=endpoint,
            request_id=request_id,
            model=self.model,
            messages=messages,
            options=self.refine,
            sampling=self.sampling(),
            deltas="none" if not self.stream else "all" if self.refine.show_rounds else "last",
            choices=self.n or 1,
            priority=self.priority,
            check_supported=self.check_supported,
        )

    def sampling(self) -> SamplingParams:
        """For both roles."""
        asked = {name: getattr(self, name) for name in _SHARED} | self.own_sampling()
        return SamplingParams(
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            bad_words=_frozen(self.bad_words),
            stop_token_ids=_frozen(self.stop_token_ids),
            allowed_token_ids=_frozen(self.allowed_token_ids),
            **asked,
        )

    def own_sampling(self) -> dict[str, int | None]:
        """The part of `SamplingParams` that an endpoint has its own words for."""
        return {}

    def check_supported(self, drafter: Drafter) -> None:
        """Raises BadRequest for a parameter that whoever writes the draft cannot take."""
        asked = {**self.upstream_params, **{name: getattr(self, name) for name in OF_THE_ENGINE}}
        check_drafter(CHAT, asked, drafter)

    def names(self) -> dict[str, str]:
        """The client's names of parameters that a later error names as chat or `/v1/refine` does."""
        return IN_REFINE

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with a chunk that tells the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(GenerationRequest):
    """Body of `POST /v1/chat/completions`."""

    model_config = ConfigDict(json_schema_extra=document(CHAT))

    messages: Annotated[list[Message], Field(fail_fast=True)]
    max_completion_tokens: Count | None = None
    response_format: dict[str, Any] | None = None
    logprobs: StrictBool = False
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _decide_every_parameter(cls, body: Any) -> Any:
        kept = filter_parameters(body, CHAT)
        if not isinstance(kept, dict):
            return kept
        if "max_tokens" in kept and "max_completion_tokens" in kept:
            message = "give max_tokens or max_completion_tokens, not both"
            raise PydanticCustomError("two_names", message, {"param": "max_tokens"})
        passed_on = [name for name in kept if CHAT[name].support in ("leader", "upstream")]
        upstream_params = {name: kept.pop(name) for name in passed_on}
        return kept | {"upstream_params": upstream_params}

    @model_validator(mode="after")
    def _top_logprobs_are_logprobs(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError("needs_logprobs", "top_logprobs needs logprobs: true", {"param": "top_logprobs"})
        return self

    def own_sampling(self) -> dict[str, int | None]:
        return {
            "max_tokens": self.max_completion_tokens or self.max_tokens,  # only one of them was given
            "logprobs": (self.top_logprobs or 0) if self.logprobs else None,
        }

    def names(self) -> dict[str, str]:
        return IN_REFINE | ({} if self.max_completion_tokens is None else {"max_tokens": "max_completion_tokens"})


_TRANSLATED = {"stop", "bad_words", "stop_token_ids", "allowed_token_ids", "priority"}
_SHARED = tuple(set(SamplingParams.__dataclass_fields__) & set(GenerationRequest.model_fields) - _TRANSLATED)
"""Parameters that `SamplingParams` has under the same name and type."""


def hide_earlier_rounds(options: RefineOptions, kind: str) -> None:
    """Refuse `show_rounds` where the answer, a `kind`, has no place for earlier rounds; chat has one."""
    if options.show_rounds:
        message = "a {kind} has no place for earlier rounds; use chat"
        raise PydanticCustomError("no_place", message, {"kind": kind, "key": "refine.show_rounds"})


def _frozen(items: list[Item] | None) -> tuple[Item, ...] | None:
    return None if items is None else tuple(items)
