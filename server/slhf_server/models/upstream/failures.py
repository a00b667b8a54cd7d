"""Translates whatever goes wrong in an attempt, in HTTP, in JSON or in what an upstream says, into our errors.

Of an upstream's failure only a status and the names of exceptions enter a message or the log.
"""

import math
from collections.abc import Collection

import httpx2

from slhf.retry import retry_after
from slhf_server.errors import BadRequest, RequestError, UpstreamContextExceeded, UpstreamFailed, UpstreamUnavailable
from slhf_server.models.upstream.answer import ErrorInAnswer, UnusableAnswer
from slhf_server.models.upstream.dialect import Request
from slhf_server.models.upstream.refusal import NOTHING_SAID, Refusal, read_refusal


class StatusError(Exception):
    """An HTTP status that is no answer."""

    def __init__(self, status: int, retry_after: str = "", content: object = b"") -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.retry_after = retry_after
        """The Retry-After header."""
        self.content = content
        """The body, or what its JSON holds, where it tells what was wrong with the request."""


FOREIGN = (StatusError, httpx2.HTTPError, UnusableAnswer, ValueError, RecursionError)
"""All that can go wrong in an attempt; a ValueError is JSON that cannot be read."""
_LONGEST_WAIT_S = 86_400.0
"""A day: clients are asked to wait no longer, whatever the upstream says."""
REFUSED = (400, 413, 422)
"""Statuses by which upstreams refuse what a request says."""


class Failure(Exception):
    """One attempt failed."""

    def __init__(
        self,
        kind: str,
        error: RequestError,
        *,
        retryable: bool = False,
        retry_after: float = 0.0,
        refusal: Refusal = NOTHING_SAID,
    ) -> None:
        super().__init__(kind)
        self.kind = kind
        """The metric's `error_type`."""
        self.error = error
        self.retryable = retryable
        """Whether the same request may succeed a little later."""
        self.retry_after = retry_after
        """Seconds to wait, as the upstream asks."""
        self.refusal = refusal
        """Which fields of the request are to blame, where it was refused."""


def failure(who: str, exc: Exception, request: Request, operators: Collection[str], *, begun: bool) -> Failure:
    """The Failure that an exception means, in the words for a client. `who` names the upstream, `begun` says that its
    answer had begun by then; `operators` are the fields of the request that the settings gave."""
    match exc:
        case StatusError():
            return _by_status(who, exc, request, operators)
        case ErrorInAnswer(status=int(status), begun=False):
            return _by_status(who, StatusError(status, content=exc.error), request, operators)
        case ErrorInAnswer(status=int(status)) if status == 429 or status >= 500:
            return Failure("server_error", UpstreamUnavailable(f"{who} failed in the middle of its answer"))
        case httpx2.HTTPError() if begun:
            return Failure("broken_off", UpstreamFailed(f"{who} broke off its answer"))
        case httpx2.TimeoutException():
            return Failure("timeout", UpstreamUnavailable(f"{who} did not answer in time"), retryable=True)
        case httpx2.HTTPError():
            return Failure("connection", UpstreamUnavailable(f"{who} cannot be reached"), retryable=True)
    return Failure("invalid_answer", UpstreamFailed(f"{who} gave an answer that cannot be used"))


def _by_status(who: str, exc: StatusError, request: Request, operators: Collection[str]) -> Failure:
    refusal = read_refusal(exc.content, request.body)
    wait = min(retry_after(exc.retry_after) or 0.0, _LONGEST_WAIT_S)
    told = math.ceil(wait) or None
    if exc.status in REFUSED and not refusal.fields & set(operators):
        return Failure("refused", _client_error(who, refusal, request), refusal=refusal)
    if exc.status == 429:
        error = UpstreamUnavailable(f"{who} takes no more requests at present", retry_after=told)
        return Failure("rate_limited", error, retryable=True, retry_after=wait)
    if exc.status in (408, 409) or exc.status >= 500:
        error = UpstreamUnavailable(f"{who} failed", retry_after=told)
        return Failure("server_error", error, retryable=True, retry_after=wait)
    return Failure("misconfigured", UpstreamUnavailable(f"{who} does not serve this server"), refusal=refusal)


def _client_error(who: str, refusal: Refusal, request: Request) -> BadRequest:
    """The client's error, which names a field of its own and tells nothing else."""
    if refusal.too_long:
        return UpstreamContextExceeded()
    asked_for = refusal.fields - request.optional
    if not asked_for:
        return BadRequest(f"{who} refused the request")
    name = min(asked_for)
    name = "max_tokens" if name == "max_completion_tokens" else name
    return BadRequest(f"{who} refused {name!r} as the request has it", param=name)
