"""What an OpenAI-compatible server's answer holds: its JSON, checked, as chunks of text, tool calls and usage.

Thoughts (`reasoning_content`, `reasoning`) are not read, so they reach nobody; their number of tokens is.
"""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import AliasChoices, BaseModel, Field, ValidationError, model_validator

from slhf.wire import FinishReason, TokenLogprob
from slhf_server.model import Chunk

_BROKEN = ("error", "abort")
"""Finish reasons of a completion that failed: vLLM's and OpenRouter's."""


class UnusableAnswer(Exception):
    """The answer is not one, or not whole."""


class _Part(BaseModel):
    """A part of the answer. Servers write null for what is absent, and more than OpenAI does."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, part: Any) -> Any:
        return {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else part


class _Message(_Part):
    content: str = ""
    refusal: str = ""
    tool_calls: list[dict[str, Any]] = []


class _Logprobs(_Part):
    content: list[TokenLogprob] = []


class _Choice(_Part):
    message: _Message = Field(_Message(), validation_alias=AliasChoices("delta", "message"))
    finish_reason: str | None = None
    logprobs: _Logprobs = _Logprobs()


class _PromptDetails(_Part):
    cached_tokens: int = 0


class _CompletionDetails(_Part):
    reasoning_tokens: int = 0


class _Usage(_Part):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _PromptDetails = _PromptDetails()
    completion_tokens_details: _CompletionDetails = _CompletionDetails()


class _Answer(_Part):
    """A whole answer, or one event of a streamed one."""

    choices: list[_Choice] = []
    usage: _Usage | None = None


class Completion:
    """One completion, read from its one answer or event by event."""

    def __init__(self) -> None:
        self._finish_reason: str | None = None
        self._tool_calls: dict[int, dict[str, Any]] = {}
        self._usage = _Usage()

    def take(self, data: object) -> Chunk | None:
        """The text that `data` adds, if any. Raises UnusableAnswer."""
        try:
            answer = _Answer.model_validate(data)
        except (ValidationError, RecursionError) as exc:
            raise UnusableAnswer("not OpenAI's format") from exc
        self._usage = answer.usage or self._usage
        if not answer.choices:
            return None
        choice = answer.choices[0]
        self._finish_reason = choice.finish_reason or self._finish_reason
        for position, call in enumerate(choice.message.tool_calls):
            index = call.pop("index", position)
            _merge(self._tool_calls.setdefault(index if isinstance(index, int) else position, {}), call)
        text = choice.message.content + choice.message.refusal
        logprobs = tuple(choice.logprobs.content)
        return Chunk(text, 0, logprobs=logprobs) if text or logprobs else None

    def last(self) -> Chunk:
        """The last chunk, with everything but text. Raises UnusableAnswer where the completion was not finished."""
        return Chunk(
            "",
            self._usage.completion_tokens,
            prompt_tokens=self._usage.prompt_tokens,
            cached_tokens=self._usage.prompt_tokens_details.cached_tokens,
            finish_reason=self._reason(),
            reasoning_tokens=self._usage.completion_tokens_details.reasoning_tokens,
            tool_calls=tuple(self._tool_calls[index] for index in sorted(self._tool_calls)),
        )

    def _reason(self) -> FinishReason:
        """OpenAI's word for why it ended; a word that OpenAI does not have is a stop like any other."""
        if self._finish_reason is None or self._finish_reason in _BROKEN:
            raise UnusableAnswer(f"finish_reason is {self._finish_reason}")
        known: dict[str, FinishReason] = {reason: reason for reason in get_args(FinishReason)}
        reason = known.get(self._finish_reason, "stop")
        return "tool_calls" if self._tool_calls and reason == "stop" else reason


def _merge(call: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """A streamed tool call comes in pieces: its arguments are appended, all else is said once."""
    for key, value in piece.items():
        before = call.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            _merge(before, value)
        elif isinstance(before, str) and isinstance(value, str) and key in ("arguments", "input"):
            call[key] = before + value
        elif value is not None and (before is None or value):
            call[key] = value
