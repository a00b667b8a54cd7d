"""The round that runs: its text as far as it has come, and what it has cost."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from slhf.wire import TokenLogprob, Usage
from slhf_server.model import Chunk
from slhf_server.reasoning import Thoughts, without_thoughts


@dataclass(slots=True)
class Running:
    """Grows by `take`. Counts are plain numbers: this is the path of every generated token."""

    started: float = field(default_factory=time.perf_counter)
    last: Chunk | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    _pieces: list[str] = field(default_factory=list)
    _held: list[TokenLogprob] = field(default_factory=list)
    """Log-probabilities of what is not known to be text yet."""
    _thoughts: Thoughts = field(default_factory=Thoughts)
    _completion: int = 0

    def take(self, chunk: Chunk) -> str:
        """Add a chunk; what of it can be shown."""
        self.last = chunk
        self._completion += chunk.completion_tokens
        shown = self._thoughts.visible(chunk.text)
        if chunk.finish_reason is not None:
            shown += self._thoughts.rest()
        self._held += chunk.logprobs
        if shown or self._pieces:
            self.logprobs += self._held if self._pieces or not self._thoughts.found else _last(self._held, shown)
            self._held = []
        if shown:
            self._pieces.append(shown)
        return shown

    @property
    def text(self) -> str:
        """What was shown until now."""
        return "".join(self._pieces)

    @property
    def whole_text(self) -> str:
        """The finished text, without thoughts whose opening tag was never sent."""
        return self.text if self._thoughts.found else without_thoughts(self.text)

    def logprobs_of(self, text: str) -> list[TokenLogprob]:
        """Those of the finished text's tokens."""
        return self.logprobs if text == self.text else _last(self.logprobs, text)

    def token_ids(self, text: str) -> tuple[int, ...] | None:
        """The ids of the finished text, if it is just what was generated."""
        return None if self._thoughts.found or text != self.text or self.last is None else self.last.token_ids

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    @property
    def tokens(self) -> int:
        """Prompt and completion, as far as they are known."""
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


def _last(tokens: Sequence[TokenLogprob], text: str) -> list[TokenLogprob]:
    """The tokens at the end that make up the text: those before them were thoughts, which nobody gets to see."""
    missing, kept = len(text.encode()), len(tokens)
    while kept and missing > 0:
        token = bytes(tokens[kept - 1].bytes or tokens[kept - 1].token.encode())
        if token[:-missing].strip():
            break  # it begins as thoughts
        missing -= len(token)
        kept -= 1
    return list(tokens[kept:])
