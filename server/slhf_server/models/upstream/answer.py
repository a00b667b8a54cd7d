"""Reads an OpenAI-compatible server's answer: its JSON becomes chunks of text, tool calls and usage.

It is read openly, because servers leave out, add and rename fields. What is not understood is ignored, as long as there
is a text or a call, and a reason why it ended. Thoughts (`reasoning_content`, `reasoning`, parts of the type
`thinking`) are not read, but for their number of tokens.
"""

import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from slhf.wire import FinishReason, TokenLogprob
from slhf_server.models.base import Chunk
from slhf_server.models.upstream.characters import HALF, whole_characters
from slhf_server.models.upstream.tool_calls import ToolCalls

_REASONS: dict[FinishReason, str] = {
    "length": "length max_tokens max_output_tokens max_length model_length token_limit",
    "tool_calls": "tool_calls tool_call tool_use function_call",
    "content_filter": "content_filter safety recitation blocklist prohibited_content spii refusal sensitive",
}
_MEANT = {word: reason for reason, words in _REASONS.items() for word in words.split()}
"""Providers' words for why an answer ended, in lower case. Any other is a stop."""
_BROKEN = ("error", "abort", "aborted", "cancelled", "insufficient_system_resource", "network_error")
"""Finish reasons of a completion that failed: vLLM's, OpenRouter's, DeepSeek's and others'."""
_MOST_TOKENS = 100_000_000
"""No context is as long, so a larger number is no count of tokens."""
_LOGPROBS = TypeAdapter(tuple[TokenLogprob, ...])
_STATUSES = {"rate_limit": 429, "overloaded": 503, "context_length": 400, "server_error": 500, "unavailable": 503}
"""The status that is meant where an error's `code` or `type` is a word that holds one of these."""
_logger = logging.getLogger(__name__)


class UnusableAnswer(Exception):
    """The upstream's answer cannot be used, or is not whole."""


class Unfinished(UnusableAnswer):
    """The answer ended without saying that it was whole."""


class ErrorInAnswer(UnusableAnswer):
    """An error object where an answer was due, after the status line had said 200."""

    def __init__(self, error: object, *, begun: bool) -> None:
        super().__init__("an error")
        self.error = error
        self.status = _status(_mapping(error))
        """The HTTP status that the error means; None: it does not say."""
        self.begun = begun
        """Whether a part of the answer came before it."""


class Completion:
    """One completion, read from one JSON answer or event by event."""

    def __init__(self, label: str) -> None:
        """`label` names the upstream in the log."""
        self._label = label
        self._finish_reason = ""
        self._tool_calls = ToolCalls()
        self._usage: Mapping[str, Any] = {}
        self._half = ""
        self._begun = False

    @property
    def finished(self) -> bool:
        """Whether the upstream has said why the completion ended, after which only usage can follow."""
        return bool(self._finish_reason)

    def chunks(self, values: Iterable[object]) -> Iterator[Chunk]:
        """Yield the text that the values add, if they add any. Raises UnusableAnswer."""
        for value in values:
            if (chunk := self.take(value)) is not None:
                yield chunk

    def take(self, data: object) -> Chunk | None:
        """The text that `data` adds, if any. Raises UnusableAnswer."""
        if not isinstance(data, dict):
            raise UnusableAnswer("not an object")
        choice = _first(data.get("choices"))
        if error := data.get("error") or choice.get("error"):
            raise ErrorInAnswer(error, begun=self._begun)
        self._usage = _mapping(data.get("usage") or choice.get("usage")) or self._usage
        if isinstance(reason := choice.get("finish_reason"), str):
            self._finish_reason = reason or self._finish_reason
        message = self._message(choice)
        self._tool_calls.take(message.get("tool_calls") or _legacy(message.get("function_call")))
        text = self._whole(_text(message.get("content")) + _refusal(message))
        logprobs = _logprobs(choice.get("logprobs"))
        self._begun |= bool(text or self._tool_calls)
        return Chunk(text, 0, logprobs=logprobs) if text or logprobs else None

    def last(self) -> Chunk:
        """The last chunk, with everything but text. Raises UnusableAnswer where the completion was not finished."""
        prompt, completion = self._tokens("prompt_tokens"), self._tokens("completion_tokens")
        return Chunk(
            "\ufffd" if self._half else "",
            completion,
            prompt_tokens=prompt,
            cached_tokens=min(prompt, self._tokens("prompt_tokens_details", "cached_tokens")),
            finish_reason=self._reason(),
            reasoning_tokens=min(completion, self._tokens("completion_tokens_details", "reasoning_tokens")),
            tool_calls=self._tool_calls.whole(),
        )

    def _message(self, choice: Mapping[str, Any]) -> Mapping[str, Any]:
        """What is new in the choice; some servers end a stream with the whole message once more."""
        return _mapping(choice.get("delta")) or ({} if self._begun else _mapping(choice.get("message")))

    def _whole(self, text: str) -> str:
        """The text in whole characters; servers may escape the halves of one, and cut between them."""
        if not self._half and not HALF.search(text):
            return text
        text = self._half + text
        self._half = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
        return whole_characters(text.removesuffix(self._half))

    def _tokens(self, *path: str) -> int:
        """A reported number of tokens; 0 where it is missing or wrong, which does not spoil the answer."""
        value: Any = self._usage
        for key in path:
            value = _mapping(value).get(key)
        if value is None:
            return 0
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS:
            return int(value)
        _logger.warning("upstream %s: usage that cannot be is ignored: %s", self._label, ".".join(path))
        return 0

    def _reason(self) -> FinishReason:
        """OpenAI's word for why the completion ended; an unknown word means a stop."""
        said = self._finish_reason.lower()
        if not said or said in _BROKEN:
            raise Unfinished("not finished")
        reason = _MEANT.get(said, "stop")
        if reason in ("stop", "tool_calls"):  # an answer calls tools where it has calls, whatever it says
            return "tool_calls" if self._tool_calls else "stop"
        return reason


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(choices: object) -> Mapping[str, Any]:
    return _mapping(choices[0]) if isinstance(choices, list) and choices else {}


def _text(content: object) -> str:
    """The text of a message's content, which is a string, or parts that may be text. Raises UnusableAnswer."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if not isinstance(content, list | dict):
        raise UnusableAnswer("content is no text")
    if isinstance(content, dict) and not {"type", "text", "value"} & content.keys():
        raise UnusableAnswer("content is no text")
    return "".join(_parts(content))


def _parts(content: object) -> Iterator[str]:
    """Yield the text in a list of parts, in a part, or in a part's text, which may be a list or an object again."""
    match content:
        case str():
            yield content
        case list():
            for part in content:
                yield from _parts(part)
        case {"type": "refusal", "refusal": str(refusal)}:
            yield refusal
        case {"type": "text" | "output_text", "text": text} | {"type": "text", "content": text}:
            yield from _parts(text)
        case {"value": str(text)}:
            yield text
        case {"text": text, **rest} if "type" not in rest:
            yield from _parts(text)


def _refusal(message: Mapping[str, Any]) -> str:
    refusal = message.get("refusal")
    return refusal if isinstance(refusal, str) else ""


def _legacy(function: object) -> list[object]:
    """`function_call`, which is older than `tool_calls`, as one of these."""
    return [{"function": function}] if isinstance(function, dict) else []


def _logprobs(said: object) -> tuple[TokenLogprob, ...]:
    """Log-probabilities in OpenAI's chat format. Others are ignored, because the text is good without them."""
    content = _mapping(said).get("content")
    if not content:
        return ()
    try:
        tokens = _LOGPROBS.validate_python(content)
    except (ValidationError, RecursionError):
        return ()
    finite = all(math.isfinite(one.logprob) for token in tokens for one in (token, *token.top_logprobs))
    return tokens if finite else ()


def _status(error: Mapping[str, Any]) -> int | None:
    """The HTTP status that an error object means; providers write it as `code`, or as a word."""
    for said in (error.get("code"), error.get("status"), error.get("type")):
        if re.fullmatch("[45][0-9][0-9]", str(said)):
            return int(str(said))
        if isinstance(said, str):
            meant = (status for word, status in _STATUSES.items() if word in said.lower())
            if (status := next(meant, None)) is not None:
                return status
    return None
