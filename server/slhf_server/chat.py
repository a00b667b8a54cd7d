"""OpenAI's chat request, and what becomes of each of its parameters: the one table that decides."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from slhf.wire import Message, RefineOptions

Fate = Literal["used", "both", "ignored", "rejected"]


@dataclass(frozen=True, slots=True)
class Parameter:
    fate: Fate
    """used: by the server itself; both: sampling of Leader and Follower; ignored: on purpose; rejected: 400."""
    note: str = ""
    neutral: tuple[Any, ...] = ()
    """Values of a rejected parameter that ask for nothing; null always does."""


PARAMETERS: dict[str, Parameter] = {
    "model": Parameter("used", "one of GET /v1/models; without it, the default model"),
    "messages": Parameter("used"),
    "stream": Parameter("used"),
    "stream_options": Parameter("used", "include_usage"),
    "refine": Parameter("used", "the refinement itself"),
    "temperature": Parameter("both", "refine.temperature overrides it for the Follower"),
    "top_p": Parameter("both", "refine.top_p overrides it for the Follower"),
    "max_tokens": Parameter("both", "per round; refine.max_tokens overrides it for the Follower"),
    "max_completion_tokens": Parameter("both", "newer name of max_tokens"),
    "stop": Parameter("both"),
    "seed": Parameter("both"),
    "frequency_penalty": Parameter("both"),
    "presence_penalty": Parameter("both"),
    "top_k": Parameter("both", "vLLM"),
    "min_p": Parameter("both", "vLLM"),
    "min_tokens": Parameter("both", "vLLM"),
    "repetition_penalty": Parameter("both", "vLLM"),
    "ignore_eos": Parameter("both", "vLLM"),
    "user": Parameter("ignored", "no per-user state is kept"),
    "safety_identifier": Parameter("ignored", "no per-user state is kept"),
    "metadata": Parameter("ignored", "nothing is stored"),
    "store": Parameter("ignored", "nothing is stored"),
    "service_tier": Parameter("ignored", "there is one tier"),
    "prompt_cache_key": Parameter("ignored", "the prefix cache needs no key"),
    "prompt_cache_retention": Parameter("ignored", "the prefix cache keeps what fits"),
    "parallel_tool_calls": Parameter("ignored", "tools are rejected"),
    "n": Parameter("rejected", "several answers per request are not supported yet", (1,)),
    "tools": Parameter("rejected", "tool calls are not supported yet", ([],)),
    "tool_choice": Parameter("rejected", "tool calls are not supported yet", ("none", "auto")),
    "functions": Parameter("rejected", "tool calls are not supported yet", ([],)),
    "function_call": Parameter("rejected", "tool calls are not supported yet", ("none", "auto")),
    "response_format": Parameter("rejected", "structured output is not supported yet", ({"type": "text"},)),
    "logprobs": Parameter("rejected", "log-probabilities are not supported yet", (False,)),
    "top_logprobs": Parameter("rejected", "log-probabilities are not supported yet", (0,)),
    "logit_bias": Parameter("rejected", "not supported", ({},)),
    "modalities": Parameter("rejected", "text is the only modality", (["text"],)),
    "audio": Parameter("rejected", "text is the only modality"),
    "prediction": Parameter("rejected", "use refine.draft: the draft itself is the prediction"),
    "web_search_options": Parameter("rejected", "the server calls no other service"),
    "reasoning_effort": Parameter("rejected", "reasoning models are not supported yet", ("none",)),
    "verbosity": Parameter("rejected", "use refine.instruction"),
}


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False
    """OpenAI pads its chunks against traffic analysis unless told not to; this server never does."""


class ChatRequest(BaseModel):
    """Body of `POST /v1/chat/completions`."""

    model_config = ConfigDict(extra="forbid")

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

    @model_validator(mode="before")
    @classmethod
    def _decide_every_parameter(cls, body: Any) -> Any:
        """Drop what is ignored on purpose, refuse what is unknown or not supported, keep the rest."""
        if not isinstance(body, dict):
            return body
        if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
            message = "give max_tokens or max_completion_tokens, not both"
            raise PydanticCustomError("two_names", message, {"param": "max_tokens"})
        return {name: value for name, value in body.items() if _is_kept(name, value)}


def _is_kept(name: str, value: Any) -> bool:
    parameter = PARAMETERS.get(name)
    if parameter is None:
        raise PydanticCustomError("unknown_parameter", "unknown parameter '{param}'", {"param": name})
    if value is None:
        return False  # OpenAI's clients send null for "not given"
    if parameter.fate == "rejected" and value not in parameter.neutral:
        raise PydanticCustomError("unsupported_parameter", "'{param}': {note}", {"param": name, "note": parameter.note})
    return parameter.fate in ("used", "both")
