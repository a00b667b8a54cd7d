"""OpenAI's `chat.completion` with our report, as the OpenAPI document shows it."""

from typing import Any, Literal

from pydantic import BaseModel

from slhf.wire import FinishReason, Refinement, TokenLogprob, Usage


class ChatMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    tool_calls: list[dict[str, Any]] | None = None
    reasoning_content: str | None = None
    """The earlier rounds, with `show_rounds`."""
    reasoning: str | None = None
    """The same under OpenRouter's and vLLM's name."""


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    finish_reason: FinishReason
    logprobs: ChatLogprobs | None
    refinement: Refinement | None = None
    """The choice's own report, where there are several."""


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    """Unix seconds."""
    model: str
    choices: list[ChatChoice]
    usage: Usage
    refinement: Refinement
