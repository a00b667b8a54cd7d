"""The round that runs: its text as far as it has come, and what it has cost."""

import time
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
    _thoughts: Thoughts = field(default_factory=Thoughts)
    _completion: int = 0

    def take(self, chunk: Chunk) -> str:
        """Add a chunk; what of it can be shown."""
        self.last = chunk
        self._completion += chunk.completion_tokens
        shown = self._thoughts.visible(chunk.text)
        if chunk.finish_reason is not None:
            shown += self._thoughts.rest()
        if self._thoughts.over:
            self.logprobs += chunk.logprobs
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
        return without_thoughts(self.text)

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
