"""How an upstream wants to be asked: as its settings say, and without what it has refused."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from slhf_server.models.base import SamplingParams, Turn
from slhf_server.models.upstream.refusal import Refusal
from slhf_server.settings.endpoints import UpstreamSettings

_SAME_NAME = (
    "temperature top_p seed frequency_penalty presence_penalty logit_bias "  # OpenAI's
    "top_k min_p min_tokens repetition_penalty ignore_eos bad_words stop_token_ids allowed_token_ids "  # vLLM's
    "include_stop_str_in_output skip_special_tokens"
).split()
_LIMITS = {"max_completion_tokens": "max_tokens", "max_tokens": "max_completion_tokens"}
"""The two names of the limit of completion tokens, each with the other one."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "temperature": (1,),
    "top_p": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "top_k": (0, -1),
    "min_p": (0,),
    "min_tokens": (0,),
    "repetition_penalty": (1,),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "tools": ([],),
    "tool_choice": ("auto",),
    "parallel_tool_calls": (True,),
    "verbosity": ("medium",),
    "chat_template_kwargs": ({},),
}
"""Values that mean the same as no value."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it is sent."""

    body: Mapping[str, Any]
    optional: frozenset[str]
    """Fields that no client asked for: the server's own, and those with a neutral value."""
    limit: str
    """What this request calls the limit of completion tokens."""
    renamed: bool = False
    """Whether that name is another one than settings or earlier answers gave."""
    left_out: frozenset[str] = frozenset()
    """Fields that the upstream has refused."""


class Dialect:
    """Makes the requests for one upstream."""

    def __init__(self, label: str, settings: UpstreamSettings) -> None:
        self._label = label
        self._settings = settings
        self._limit: str = settings.max_tokens_parameter
        self._refused: frozenset[str] = frozenset()

    def request(self, turns: Sequence[Turn], sampling: SamplingParams, deltas: bool) -> Request:
        """The request for a completion of `turns`.

        What the client passed on comes first, so that it replaces nothing of ours; what the settings add comes last.
        """
        body = dict(sampling.upstream_params)
        body |= {name: value for name in _SAME_NAME if (value := getattr(sampling, name)) is not None}
        optional = {name for name, value in body.items() if value in _NEUTRAL.get(name, ())} | sampling.dispensable
        body |= self._wishes(sampling)
        body |= {"model": self._settings.model, "messages": [_message(turn) for turn in turns], "stream": deltas}
        if deltas:
            body["stream_options"] = {"include_usage": True}
            optional |= {"stream", "stream_options"}
        if "logprobs" in sampling.dispensable:
            optional.add("top_logprobs")
        if sampling.max_tokens is None:
            optional.add(self._limit)
        body = {name: value for name, value in body.items() if name not in self._settings.omit}
        body = _merged(body, self._settings.extra_body)
        optional = (optional & body.keys()) - self._settings.extra_body.keys()
        return _without(Request(body, frozenset(optional), self._limit), self._refused & optional)

    def simpler(self, request: Request, refusal: Refusal) -> Request | None:
        """The request without the fields that the upstream refused.

        None where the client or the operator asked for one of them, or where the upstream named none: then there is no
        honest way to ask again.
        """
        refused = refusal.fields
        renames = refusal.unknown and request.limit in refused and not request.renamed
        if not refused or not refused <= request.optional | ({request.limit} if renames else set()):
            return None
        if renames:
            request = _renamed(request)
        return replace(_without(request, refused), left_out=request.left_out | refused)

    def accepted(self, request: Request) -> None:
        """Note that the upstream took the request: fields that were left out for it are not sent again."""
        news = request.left_out - self._refused - _LIMITS.keys()  # another limit may be one that it takes
        if request.renamed and request.limit != self._limit:
            self._limit = request.limit
            _logger.info("upstream %s: its max_tokens_parameter is %s", self._label, request.limit)
        if news:
            self._refused |= news
            _logger.info("upstream %s does not take %s: no longer sent", self._label, ", ".join(sorted(news)))

    def _wishes(self, sampling: SamplingParams) -> Mapping[str, Any]:
        """Sampling that OpenAI calls by other names than vLLM."""
        wishes: dict[str, Any] = {}
        if sampling.stop:
            wishes["stop"] = sampling.stop
        if (most := self._most_tokens(sampling)) is not None:
            wishes[self._limit] = most
        if sampling.logprobs is not None:
            wishes |= {"logprobs": True, "top_logprobs": sampling.logprobs}
        if sampling.structure is not None:
            wishes["response_format"] = sampling.structure.response_format
        return wishes

    def _most_tokens(self, sampling: SamplingParams) -> int | None:
        """The limit of completion tokens to send, if any.

        A budget that no answer can use up is not sent, because upstreams refuse more than their model can write.
        """
        budget = sampling.max_total_tokens
        if sampling.max_tokens is not None:
            return sampling.max_tokens if budget is None else min(budget, sampling.max_tokens)
        return budget if budget is not None and budget < self._settings.max_output_tokens else None


def _message(turn: Turn) -> dict[str, Any]:
    return {"role": turn.role, "content": turn.text} if turn.message is None else dict(turn.message)


def _without(request: Request, names: Collection[str]) -> Request:
    """The request without these fields; without `stream`, the answer is asked for in one piece."""
    if not names:
        return request
    whole = "stream" in names
    left = {name: value for name, value in request.body.items() if name not in names}
    if whole:
        left = {name: value for name, value in left.items() if name != "stream_options"} | {"stream": False}
    return replace(request, body=left, optional=request.optional & left.keys() - ({"stream"} if whole else set()))


def _renamed(request: Request) -> Request:
    """The same request with the other name of the limit."""
    limit = _LIMITS[request.limit]
    body = {limit if name == request.limit else name: value for name, value in request.body.items()}
    optional = {limit if name == request.limit else name for name in request.optional}
    return replace(request, body=body, optional=frozenset(optional), limit=limit, renamed=True)


def _merged(body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """The body with `extra`, whose values win; mappings in both are merged key by key."""
    merged = dict(body)
    for name, value in extra.items():
        before = merged.get(name)
        merged[name] = _merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return merged
