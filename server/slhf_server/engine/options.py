"""How to sample a completion, by vLLM's names: for the engine in this process and for a server's API alike."""

from collections.abc import Mapping
from typing import Any

from slhf_server.errors import BadRequest, ContextLengthExceeded, TokenBudgetExceeded
from slhf_server.models.base import SamplingParams

_LISTS = ("stop", "bad_words", "stop_token_ids", "allowed_token_ids")  # vLLM takes no tuple
_ELSEWHERE = (
    *("max_total_tokens", "structure", "pattern", "logit_bias", "cache_salt", "priority"),
    *("upstream_params", "dispensable", "tools", "template_options"),
)
_PASSED_ON = tuple(name for name in SamplingParams.__dataclass_fields__ if name not in (*_LISTS, *_ELSEWHERE))


def room_for(prompt_tokens: int, sampling: SamplingParams, max_model_len: int) -> int:
    """The most tokens that a completion may have. Raises where no token would fit: ContextLengthExceeded and
    TokenBudgetExceeded."""
    room = max_model_len - prompt_tokens
    if room < 1:
        raise ContextLengthExceeded(prompt_tokens, max_model_len)
    if sampling.max_total_tokens is not None:
        room = min(room, sampling.max_total_tokens - prompt_tokens)
    if room < 1:
        raise TokenBudgetExceeded(
            f"max_total_tokens leaves {sampling.max_total_tokens} tokens; the next prompt alone has {prompt_tokens}"
        )
    return room


def sampling_options(sampling: SamplingParams, defaults: Mapping[str, Any], room: int) -> dict[str, Any]:
    """Options for at most `room` tokens, without the grammar and biases, which have another form in each interface.

    Raises BadRequest for what contradicts itself.
    """
    if sampling.structure is not None and sampling.ignore_eos:
        # vLLM would write on after the JSON's end, without the grammar
        raise BadRequest("ignore_eos does not go with response_format", param="ignore_eos")
    wishes = {name: value for name in _PASSED_ON if (value := getattr(sampling, name)) is not None}
    options = {**defaults, **wishes}
    options["max_tokens"] = min(options.get("max_tokens") or room, room)
    if options["max_tokens"] == room:  # there may be less room than min_tokens asks for
        options["min_tokens"] = min(options.get("min_tokens", 0), room)
    return options | {name: list(value) for name in _LISTS if (value := getattr(sampling, name)) is not None}


def grammar(sampling: SamplingParams) -> dict[str, Any] | None:
    """vLLM's `structured_outputs`: a schema as text, since msgpack has no integers above 64 bits."""
    if sampling.structure is None:
        return None if sampling.pattern is None else {"regex": sampling.pattern}
    return {"json_object": True} if sampling.structure.schema is None else {"json": sampling.structure.text}
