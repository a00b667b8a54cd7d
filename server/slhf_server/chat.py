"""OpenAI's chat request. What becomes of each of its parameters, the table in parameters.py decides."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from slhf.wire import Message, RefineOptions
from slhf_server.errors import BadRequest
from slhf_server.model import Sampling
from slhf_server.parameters import PARAMETERS, Fate
from slhf_server.planner import Drafter
from slhf_server.structure import structure_of

Item = TypeVar("Item")
TokenId = Annotated[StrictInt, Field(ge=0, lt=2**31)]
OF_THE_ENGINE = tuple(name for name, parameter in PARAMETERS.items() if parameter.fate == "engine")


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False
    """OpenAI pads its chunks against traffic analysis unless told not to; this server never does."""


def _show_every_parameter(schema: dict[str, Any]) -> None:
    """The OpenAPI document also names what is passed on, ignored or refused, as the table has it."""
    for name, parameter in PARAMETERS.items():
        if parameter.fate in ("upstream", "ignored", "rejected"):
            accepted = {"enum": [None, *parameter.neutral]} if parameter.fate == "rejected" else {}
            schema["properties"][name] = accepted | {"description": parameter.said}


class ChatRequest(BaseModel):
    """Body of `POST /v1/chat/completions`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_show_every_parameter)

    model: StrictStr | None = None
    messages: list[Message]
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    refine: RefineOptions = RefineOptions()
    temperature: Annotated[float, Field(ge=0, le=2, strict=True)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, strict=True)] | None = None
    max_tokens: Annotated[StrictInt, Field(gt=0)] | None = None
    max_completion_tokens: Annotated[StrictInt, Field(gt=0)] | None = None
    stop: StrictStr | Annotated[list[StrictStr], Field(max_length=16)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, strict=True)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2, strict=True)] | None = None
    top_k: Annotated[StrictInt, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, strict=True)] | None = None
    min_tokens: Annotated[StrictInt, Field(ge=0, lt=2**31)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2, strict=True)] | None = None
    ignore_eos: StrictBool | None = None
    n: Annotated[StrictInt, Field(gt=0)] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: StrictBool = False
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None
    logit_bias: dict[StrictStr, Annotated[float, Field(ge=-100, le=100, strict=True)]] | None = None
    bad_words: list[StrictStr] | None = None
    stop_token_ids: list[TokenId] | None = None
    allowed_token_ids: list[TokenId] | None = None
    include_stop_str_in_output: StrictBool | None = None
    skip_special_tokens: StrictBool | None = None
    passed_on: SkipJsonSchema[dict[str, Any]] = {}
    """What only an upstream takes, by name, as it came."""

    @model_validator(mode="before")
    @classmethod
    def _decide_every_parameter(cls, body: Any) -> Any:
        """Drop what is ignored on purpose, refuse what is unknown or not supported, keep the rest."""
        if not isinstance(body, dict):
            return body
        if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
            message = "give max_tokens or max_completion_tokens, not both"
            raise PydanticCustomError("two_names", message, {"param": "max_tokens"})
        kept = {name: value for name, value in body.items() if _is_kept(name, value)}
        passed_on = {name: kept.pop(name) for name in list(kept) if PARAMETERS[name].fate == "upstream"}
        return kept | {"passed_on": passed_on}

    @model_validator(mode="after")
    def _top_logprobs_are_logprobs(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError("needs_logprobs", "top_logprobs needs logprobs: true", {"param": "top_logprobs"})
        return self

    def sampling(self) -> Sampling:
        """For both roles. Raises BadRequest for a response_format that cannot be."""
        shared = set(Sampling.__dataclass_fields__) & set(ChatRequest.model_fields) - _TRANSLATED
        return Sampling(
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            max_tokens=self.max_completion_tokens or self.max_tokens,  # only one of them was given
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            bad_words=_frozen(self.bad_words),
            stop_token_ids=_frozen(self.stop_token_ids),
            allowed_token_ids=_frozen(self.allowed_token_ids),
            structure=None if self.response_format is None else structure_of(self.response_format),
            **{name: getattr(self, name) for name in shared},
        )

    def suits(self, drafter: Drafter) -> None:
        """Raises BadRequest for a parameter that whoever writes the draft cannot take."""
        if drafter != "upstream":
            for name, value in self.passed_on.items():
                if value not in PARAMETERS[name].neutral:
                    who = (
                        "this model's Leader takes none" if drafter == "engine" else "the draft is given, nobody leads"
                    )
                    raise BadRequest(f"'{name}' is for a Leader on another server, and {who}", param=name)
        elif named := [name for name in OF_THE_ENGINE if getattr(self, name) not in (None, *PARAMETERS[name].neutral)]:
            raise BadRequest(f"'{named[0]}' holds token ids, and this model's Leader has other ones", param=named[0])


_NOT_FOR: dict[Drafter, tuple[Fate, str]] = {
    "engine": ("upstream", "is for a Leader on another server, and this model's is not"),
    "client": ("upstream", "is for a Leader, and a request with a draft has none"),
    "upstream": ("engine", "holds token ids, and this model's Leader has other ones than its Follower"),
}
"""Which parameters a request cannot have, by who writes its draft."""
_TRANSLATED = {"stop", "max_tokens", "logprobs", "bad_words", "stop_token_ids", "allowed_token_ids"}


def _frozen(items: list[Item] | None) -> tuple[Item, ...] | None:
    return None if items is None else tuple(items)


def _is_kept(name: str, value: Any) -> bool:
    parameter = PARAMETERS.get(name)
    if parameter is None:
        raise PydanticCustomError("unknown_parameter", "unknown parameter '{param}'", {"param": name})
    if value is None:
        return False  # OpenAI's clients send null for "not given"
    if parameter.fate == "rejected" and value not in parameter.neutral:
        raise PydanticCustomError("unsupported_parameter", "'{param}': {note}", {"param": name, "note": parameter.note})
    return parameter.fate not in ("ignored", "rejected")
