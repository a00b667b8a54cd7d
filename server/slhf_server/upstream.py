"""An OpenAI-compatible endpoint as a chat model. The only module that imports the openai SDK.

An attempt asks the upstream once: the breaker admits it, `upstream_answer.py` reads the answer, `_failure` translates
whatever goes wrong. `Upstream.stream` makes attempts until one succeeds, as long as no answer has begun.
"""

import asyncio
import itertools
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import openai

from slhf_server.breaker import Breaker
from slhf_server.errors import BadRequest, RequestError, UpstreamContextExceeded, UpstreamFailed, UpstreamUnavailable
from slhf_server.metrics import Metrics
from slhf_server.model import Chunk, Sampling, Turn
from slhf_server.settings import UpstreamSettings
from slhf_server.upstream_answer import Completion, UnusableAnswer

_CONNECT_S = 10.0
_BACKOFF_S = (0.5, 8.0)
"""Before the second attempt at most the first, doubled for each further one up to the second."""
_LONGEST_PAUSE_S = 30.0
"""Asked by Retry-After to wait longer than this, nothing is retried: the client is told."""
_PROBE_S = 10.0
_PROBE_PAUSE_S = (0.1, 5.0)
_SAME_NAME = (
    "temperature top_p seed frequency_penalty presence_penalty logit_bias "  # OpenAI's
    "top_k min_p min_tokens repetition_penalty ignore_eos bad_words stop_token_ids allowed_token_ids "  # vLLM's
    "include_stop_str_in_output skip_special_tokens"
).split()
_FOREIGN = (openai.OpenAIError, httpx2.HTTPError, UnusableAnswer, ValueError, RecursionError)
"""All that can go wrong in an attempt; a ValueError is JSON that cannot be written or read."""
_logger = logging.getLogger(__name__)


class _Failure(Exception):
    """One attempt failed."""

    def __init__(self, kind: str, error: RequestError, *, again: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(kind)
        self.kind = kind
        """`error_type` of the metric."""
        self.error = error
        self.again = again
        """Whether the same request may succeed a little later."""
        self.retry_after = retry_after
        """Seconds, as the upstream wishes."""


class _Progress:
    begun = False
    """The upstream has said 200: from here on nothing is retried."""


class Upstream:
    """Implements `ChatModel`."""

    answered = False
    """Whether it has answered once since the server started."""

    def __init__(
        self,
        label: str,
        settings: UpstreamSettings,
        metrics: Metrics,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`label` names it in the configuration, in metrics and in messages."""
        self.label = label
        self.name = settings.model
        self._settings = settings
        self._metrics = metrics
        self._sleep = sleep
        self._random = random
        self._places = asyncio.Semaphore(settings.max_concurrent)
        self._breaker = Breaker(settings.breaker_failures, settings.breaker_cooldown_s, clock)
        metrics.upstream_breaker.labels(label).set_function(lambda: float(self._breaker.is_open))
        self._headers = _headers(settings)
        self._client = openai.AsyncOpenAI(
            base_url=str(settings.base_url),
            api_key="unused",  # None would be OPENAI_API_KEY, which is nobody's to send here; _headers has the key
            timeout=openai.Timeout(settings.timeout_s, connect=min(_CONNECT_S, settings.timeout_s)),
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),  # only what is configured is asked
        )

    async def stream(
        self, turns: Sequence[Turn], sampling: Sampling, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        body = self._body(turns, sampling, deltas)
        async with self._places:
            for attempt in itertools.count():
                try:
                    async with aclosing(self._attempt(body)) as chunks:
                        async for chunk in chunks:
                            yield chunk
                    return
                except _Failure as failure:
                    pause = self._pause(failure, attempt)
                    if pause is None:
                        raise failure.error from failure.__cause__
                await self._sleep(pause)

    async def probe(self) -> bool:
        """Whether the upstream answers now: anything but a refusal of the key, a redirect or an error of its own."""
        try:
            await self._client.models.with_raw_response.list(extra_headers=self._headers, timeout=_PROBE_S)
        except openai.APIStatusError as exc:
            if exc.status_code in (401, 403) or not 400 <= exc.status_code < 500:
                _logger.warning("upstream %s is not ready: HTTP %d", self.label, exc.status_code)
                return False
        except openai.APIError as exc:
            _logger.warning("upstream %s is not ready: %s", self.label, type(exc).__name__)
            return False
        self.answered = True
        return True

    async def await_answer(self) -> None:
        """Probe until the upstream has answered once."""
        pause, longest = _PROBE_PAUSE_S
        while not await self.probe():
            await self._sleep(pause)
            pause = min(2 * pause, longest)
        _logger.info("upstream %s has answered", self.label)

    async def close(self) -> None:
        await self._client.close()

    async def _attempt(self, body: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
        """Ask once. Raises _Failure."""
        completion = Completion()
        with self._judged() as progress:
            async with self._client.chat.completions.with_streaming_response.create(
                model=self.name, messages=[], extra_headers=self._headers, extra_body=body
            ) as response:
                progress.begun = True
                async with aclosing(self._answers(response.http_response, body["stream"])) as answers:
                    async for answer in answers:
                        if (chunk := completion.take(answer)) is not None:
                            yield chunk
            last = completion.last()
        yield last

    async def _answers(self, response: httpx2.Response, streamed: bool) -> AsyncGenerator[object, None]:
        """The JSON of a response: one value, or one for each event."""
        expected = "text/event-stream" if streamed else "application/json"
        if not response.headers.get("content-type", "").startswith(expected):
            raise UnusableAnswer(f"not {expected}")
        if streamed:
            async for event in openai.AsyncStream(cast_to=object, response=response, client=self._client):
                yield event
        else:
            await response.aread()
            yield response.json()

    @contextmanager
    def _judged(self) -> Iterator[_Progress]:
        """An attempt with the breaker's leave; it and the metrics learn how it ends, unless it is abandoned."""
        wait = self._breaker.admit()
        if wait > 0:
            self._metrics.upstream_errors.labels(self.label, "breaker_open").inc()
            message = f"the upstream {self.label!r} has failed too often and is left alone for a while"
            raise _Failure("breaker_open", UpstreamUnavailable(message, retry_after=math.ceil(wait)))
        started = time.perf_counter()
        progress = _Progress()
        try:
            yield progress
        except _FOREIGN as exc:
            failure = _failure(self.label, exc, begun=progress.begun)
            self._failed(failure, exc)
            raise failure from exc
        self._breaker.succeeded()
        self._metrics.upstream_latency.labels(self.label).observe(time.perf_counter() - started)

    def _failed(self, failure: _Failure, exc: Exception) -> None:
        self._metrics.upstream_errors.labels(self.label, failure.kind).inc()
        if isinstance(failure.error, BadRequest):  # the client's fault: the upstream is well
            self._breaker.succeeded()
            return
        self._breaker.failed()
        said = f"HTTP {exc.status_code}" if isinstance(exc, openai.APIStatusError) else type(exc).__name__
        _logger.warning("upstream %s: %s (%s)", self.label, failure.kind, said)

    def _pause(self, failure: _Failure, attempt: int) -> float | None:
        """Seconds until the next attempt: what the upstream asks for and full jitter. None: there is no next one."""
        if not failure.again or attempt >= self._settings.max_retries or self._breaker.is_open:
            return None
        if failure.retry_after > _LONGEST_PAUSE_S:
            return None
        first, longest = _BACKOFF_S
        return failure.retry_after + self._random() * min(longest, first * 2.0**attempt)

    def _body(self, turns: Sequence[Turn], sampling: Sampling, deltas: bool) -> dict[str, Any]:
        """The request's JSON. What the client passed on comes first, so that it can replace nothing of ours."""
        body = dict(sampling.passed_on)
        body |= {name: value for name in _SAME_NAME if (value := getattr(sampling, name)) is not None}
        body |= {"model": self.name, "messages": [_message(turn) for turn in turns], "stream": deltas}
        if deltas:
            body["stream_options"] = {"include_usage": True}
        if sampling.stop:
            body["stop"] = sampling.stop
        if (most := self._most_tokens(sampling)) is not None:
            body[self._settings.max_tokens_parameter] = most
        if sampling.logprobs is not None:
            body["logprobs"] = True
            body["top_logprobs"] = sampling.logprobs
        if sampling.structure is not None:
            body["response_format"] = sampling.structure.response_format
        return body

    def _most_tokens(self, sampling: Sampling) -> int | None:
        """A budget that no answer can use up is not sent: upstreams refuse more than their model can write."""
        budget = sampling.max_total_tokens
        if sampling.max_tokens is not None:
            return sampling.max_tokens if budget is None else min(budget, sampling.max_tokens)
        return budget if budget is not None and budget < self._settings.max_output_tokens else None


def _headers(settings: UpstreamSettings) -> dict[str, str | openai.Omit]:
    """What the SDK would take from variables meant for OpenAI itself is left out."""
    key = settings.key()
    authorization = openai.Omit() if key is None else f"Bearer {key.get_secret_value()}"
    nothing = openai.Omit()
    return {"Authorization": authorization, "OpenAI-Organization": nothing, "OpenAI-Project": nothing}


def _message(turn: Turn) -> Mapping[str, Any]:
    return {"role": turn.role, "content": turn.text} if turn.message is None else turn.message


def _failure(label: str, exc: Exception, *, begun: bool) -> _Failure:
    """The one place where failures of the SDK, of HTTP and of JSON become ours. Nothing of theirs enters a message."""
    who = f"the upstream {label!r}"
    if begun and isinstance(exc, openai.APIConnectionError | httpx2.HTTPError):
        return _Failure("broken_off", UpstreamFailed(f"{who} broke off its answer"))
    if begun:
        return _Failure("invalid_answer", UpstreamFailed(f"{who} gave an answer that cannot be used"))
    if isinstance(exc, openai.APIStatusError):
        return _refusal(who, exc)
    if isinstance(exc, openai.APITimeoutError):
        return _Failure("timeout", UpstreamUnavailable(f"{who} did not answer in time"), again=True)
    if isinstance(exc, openai.APIConnectionError):
        return _Failure("connection", UpstreamUnavailable(f"{who} cannot be reached"), again=True)
    return _Failure("refused", BadRequest("the request cannot be written as JSON for the upstream"))


def _refusal(who: str, exc: openai.APIStatusError) -> _Failure:
    """An HTTP status that is no answer."""
    wait = _retry_after(exc.response.headers.get("retry-after", ""))
    told = math.ceil(wait) if wait else None
    match exc.status_code:
        case 400 | 413 | 422:
            return _Failure("refused", _client_error(who, exc))
        case 429:
            error = UpstreamUnavailable(f"{who} takes no more requests at present", retry_after=told)
            return _Failure("rate_limited", error, again=True, retry_after=wait or 0.0)
        case status if status in (408, 409) or status >= 500:
            error = UpstreamUnavailable(f"{who} failed", retry_after=told)
            return _Failure("server_error", error, again=True, retry_after=wait or 0.0)
    return _Failure("misconfigured", UpstreamUnavailable(f"{who} does not serve this server"))


def _client_error(who: str, exc: openai.APIStatusError) -> BadRequest:
    too_long = exc.code == "context_length_exceeded" or "maximum context length" in exc.message  # the latter: vLLM
    return UpstreamContextExceeded() if too_long else BadRequest(f"{who} refused the request")


def _retry_after(header: str) -> float | None:
    """Seconds, from seconds or a date; None where it says nothing of use."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, min(seconds, 86_400.0)) if math.isfinite(seconds) else None
