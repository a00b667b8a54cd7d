"""vLLM's `POST /v1/completions`: requests of token ids, and the events of their answers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from slhf.wire import TokenLogprob, TopLogprob
from slhf_server.engine.completion import Piece
from slhf_server.engine.options import grammar, sampling_options
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.models.base import SamplingParams
from slhf_server.models.upstream.answer import ErrorInAnswer, Unfinished, UnusableAnswer

OURS = frozenset(
    "model prompt stream stream_options stream_interval return_token_ids return_tokens_as_token_ids "
    "cache_salt priority".split()
)
"""Fields of a request that are the server's own: a client has no part in their values."""
_INTERVAL = 16
"""Tokens of an event where nobody reads them as they come."""

_TokenId = Annotated[int, Field(ge=0, lt=2**32, strict=True)]


def request_body(
    model: str,
    token_ids: Sequence[int],
    sampling: SamplingParams,
    defaults: Mapping[str, Any],
    room: int,
    *,
    priority: int = 0,
    deltas: bool = True,
) -> dict[str, Any]:
    """The request for at most `room` tokens. Raises BadRequest for what contradicts itself.

    It always streams, so that a server that hangs or dies is noticed, and a round that is cut is billed.
    """
    body = sampling_options(sampling, defaults, room) | {
        "model": model,
        "prompt": list(token_ids),
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }
    if not deltas:
        body["stream_interval"] = _INTERVAL
    if sampling.logit_bias:
        body["logit_bias"] = dict(sampling.logit_bias)
    if (written := grammar(sampling)) is not None:
        body["structured_outputs"] = written
    if sampling.logprobs is not None:
        body["return_tokens_as_token_ids"] = True  # as texts, several tokens may be one
    if sampling.cache_salt is not None:
        body["cache_salt"] = sampling.cache_salt
    if priority:
        body["priority"] = priority  # a server without priorities refuses any
    return body


class _Logprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]


class _Choice(BaseModel):
    text: str
    token_ids: list[_TokenId]
    prompt_token_ids: list[int] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: _Logprobs | None = None


class _Details(BaseModel):
    cached_tokens: int = Field(default=0, ge=0)


class _Usage(BaseModel):
    prompt_tokens_details: _Details | None = None


class _Guesses(BaseModel):
    num_accepted_draft_tokens: int = Field(ge=0)
    num_draft_tokens: int = Field(ge=0)


class _Metrics(BaseModel):
    speculative_decoding: _Guesses | None = None


class _Event(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None
    metrics: _Metrics | None = None


class Answer:
    """One answer, read event by event."""

    def __init__(self, token_ids: Sequence[int], sampling: SamplingParams, encoder: PromptEncoder) -> None:
        """`token_ids` are the prompt's."""
        self._prompt = list(token_ids)
        self._most = sampling.logprobs
        self._encoder = encoder
        self._ids: list[int] = []
        self._last: _Choice | None = None
        self._usage = _Usage()
        self._metrics = _Metrics()
        self._before: list[int] = []

    @property
    def finished(self) -> bool:
        """Whether the server has said why the completion ended, after which only usage can follow."""
        return self._last is not None

    def pieces(self, values: Iterable[object]) -> Iterator[Piece]:
        """Yield what the events add, but for the end. Raises UnusableAnswer, and ValueError for what is no event."""
        for value in values:
            if isinstance(value, dict) and (error := value.get("error")):
                raise ErrorInAnswer(error, begun=bool(self._ids))
            event = _Event.model_validate(value)
            self._usage = event.usage or self._usage
            self._metrics = event.metrics or self._metrics
            for choice in event.choices[:1]:
                self._check(choice)
                self._ids += choice.token_ids
                if choice.finish_reason is None:
                    yield self._piece(choice)
                else:
                    self._last = choice

    def last(self) -> Piece:
        """The last piece, with the usage that has come after it. Raises Unfinished where the end is missing."""
        if self._last is None:
            raise Unfinished("not finished")
        return self._piece(self._last)

    def _check(self, choice: _Choice) -> None:
        """Raises where the server has read another prompt: what it wrote answers something else."""
        if choice.prompt_token_ids is not None and choice.prompt_token_ids != self._prompt:
            raise UnusableAnswer("another prompt")
        if choice.finish_reason in ("abort", "error"):
            raise ErrorInAnswer({"code": 503, "message": choice.finish_reason}, begun=bool(self._ids))

    def _piece(self, choice: _Choice) -> Piece:
        details = self._usage.prompt_tokens_details or _Details()
        guesses = self._metrics.speculative_decoding or _Guesses(num_accepted_draft_tokens=0, num_draft_tokens=0)
        return Piece(
            text=choice.text,
            token_ids=choice.token_ids,
            prompt_tokens=len(self._prompt),
            cached_tokens=min(details.cached_tokens, len(self._prompt)),
            finish_reason=choice.finish_reason,
            stop_reason=choice.stop_reason,
            logprobs=tuple(self._logprobs(choice)),
            accepted_tokens=guesses.num_accepted_draft_tokens,
            rejected_tokens=max(0, guesses.num_draft_tokens - guesses.num_accepted_draft_tokens),
        )

    def _logprobs(self, choice: _Choice) -> Iterator[TokenLogprob]:
        if self._most is None or choice.logprobs is None:
            return
        said = choice.logprobs
        for token, logprob, top in zip(said.tokens, said.token_logprobs, said.top_logprobs, strict=True):
            token_id = _id_of(token)
            likeliest = sorted((top or {}).items(), key=lambda one: -one[1])[: self._most]
            yield TokenLogprob(
                **dict(self._entry(token_id, logprob)), top_logprobs=[self._entry(_id_of(t), p) for t, p in likeliest]
            )
            self._before = [*self._before[-3:], token_id]

    def _entry(self, token_id: int, logprob: float | None) -> TopLogprob:
        if logprob is None:
            raise UnusableAnswer("no log-probability")
        text = self._encoder.token_text(token_id, self._before)
        return TopLogprob(token=text, logprob=logprob, bytes=list(self._encoder.token_bytes(token_id)))


def _id_of(token: str) -> int:
    """The id in vLLM's `token_id:17`. Raises ValueError."""
    return int(token.removeprefix("token_id:"))
