"""The round that runs: its text so far, and what it has cost."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slhf.wire import TokenLogprob, Usage
from slhf_server.models.base import Chunk
from slhf_server.models.reasoning import ReasoningParser, is_blank


@dataclass(slots=True)
class RoundState:
    """A round's state, which grows by `take`. Counts are plain numbers, because every generated token passes here."""

    draft: str | None = None
    """What the round's text is where the model ends after its thoughts without another word; None: nothing."""
    started: float = field(default_factory=time.perf_counter)
    last: Chunk | None = None
    begun: bool = False
    """Whether there is something to see. Blank text before it is held back: if nothing follows, it is no answer."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    calls_shown: bool = False
    """Whether pieces of tool calls have reached the client: then the round is the answer, whatever follows."""
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    """The tool calls so far, by index."""
    _pieces: list[str] = field(default_factory=list)
    _held: list[TokenLogprob] = field(default_factory=list)
    """Log-probabilities of tokens that are not yet known to be text."""
    _reasoning: ReasoningParser = field(default_factory=ReasoningParser)
    _completion: int = 0

    def take(self, chunk: Chunk) -> str:
        """Add a chunk and return what of it can be shown."""
        self.last = chunk
        self._completion += chunk.completion_tokens
        for call in chunk.call_deltas:
            _grow(self.calls.setdefault(call["index"], {}), call)
        if not self.begun:
            return self._begin(chunk)
        self._pieces.append(chunk.text)
        self.logprobs += chunk.logprobs
        return chunk.text

    def _begin(self, chunk: Chunk) -> str:
        """Take chunks until there is something to see, or the completion has ended."""
        ended = chunk.finish_reason is not None
        piece = self._reasoning.visible(chunk.text)
        if ended:
            piece += self._reasoning.rest()
        self._held += chunk.logprobs
        if self.draft is not None and self._is_silent(chunk, piece):
            piece, self._held = self.draft, []
        self._pieces.append(piece)
        self.begun = not is_blank(piece)
        if self.begun or ended:
            self.logprobs = _last(self._held, self.text) if self._reasoning.found else self._held
        return self.text if self.begun else ""

    def _is_silent(self, chunk: Chunk, piece: str) -> bool:
        """Whether the model has ended by itself, after whole thoughts and without another word."""
        return chunk.finish_reason == "stop" and self._reasoning.closed and is_blank(self.text + piece)

    @property
    def text(self) -> str:
        """The text so far, without thoughts."""
        return "".join(self._pieces)

    @property
    def whole(self) -> bool:
        """Whether the model has said that this was all."""
        return self.last is not None and self.last.finish_reason is not None

    @property
    def tool_calls(self) -> tuple[Mapping[str, Any], ...]:
        """OpenAI's tool calls, as far as they are written."""
        if self.last is not None and self.last.tool_calls:
            return self.last.tool_calls
        return tuple(self.calls[index] for index in sorted(self.calls))

    def token_ids(self) -> tuple[int, ...] | None:
        """The ids of the finished text, if it is exactly what was generated."""
        return None if self._reasoning.found or self.last is None else self.last.token_ids

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    @property
    def tokens(self) -> int:
        """Tokens of prompt and completion, as far as they are known."""
        return self._completion + (0 if self.last is None else self.last.prompt_tokens)

    def usage(self) -> Usage:
        if self.last is None:
            return Usage()
        return Usage.of(
            self.last.prompt_tokens,
            self._completion,
            cached=self.last.cached_tokens,
            reasoning=self.last.reasoning_tokens,
            accepted=self.last.accepted_tokens,
            rejected=self.last.rejected_tokens,
        )


def _grow(call: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """Add a piece of a call to what is known of it: arguments are appended, all else is said once."""
    if not call:
        call |= {"id": piece.get("id"), "type": "function", "function": {"name": "", "arguments": ""}}
    for key, text in piece["function"].items():
        call["function"][key] += text


def _last(tokens: Sequence[TokenLogprob], text: str) -> list[TokenLogprob]:
    """The tokens at the end that make up the text; those before them were thoughts, which are never shown."""
    missing, kept = len(text.encode()), len(tokens)
    while kept and missing > 0:
        token = bytes(tokens[kept - 1].bytes or tokens[kept - 1].token.encode())
        if token[:-missing].strip():
            break  # the token begins within the thoughts
        missing -= len(token)
        kept -= 1
    return list(tokens[kept:])
