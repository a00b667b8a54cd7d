"""The spine: a chat model streams one completion for one list of turns.

The vLLM engine's two roles (engine.py) and the fake (fake.py) implement it; the refinement loop knows nothing else.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from slhf.bundle import Bundle
from slhf.wire import FinishReason


@dataclass(frozen=True, slots=True)
class Turn:
    """One message as a model sees it."""

    role: str
    text: str
    token_ids: tuple[int, ...] | None = None
    """The ids that a model of ours generated for exactly this text; None: encode the text.

    Decoding and encoding again may give other ids, and then vLLM's prefix cache misses the whole answer.
    """


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample one completion; vLLM's names. None: the bundle's default, else the engine's."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    """Completion tokens; None or more than the context leaves: what the context leaves."""
    max_total_tokens: int | None = None
    """Prompt plus completion tokens of this completion: what is left of the request's budget."""
    stop: tuple[str, ...] = ()
    seed: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    min_tokens: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a completion, in order. The last one carries `finish_reason`."""

    text: str
    completion_tokens: int
    """Tokens of this piece."""
    prompt_tokens: int = 0
    """Tokens of the whole prompt, on every chunk."""
    cached_tokens: int = 0
    """How many of them the prefix cache held."""
    finish_reason: FinishReason | None = None
    accepted_tokens: int = 0
    """On the last chunk: tokens guessed from the prompt (draft as speculation) that the model confirmed."""
    rejected_tokens: int = 0
    """On the last chunk: tokens guessed and not confirmed."""
    token_ids: tuple[int, ...] | None = None
    """On the last chunk: the ids of the whole text, when they decode to exactly that text."""


class ChatModel(Protocol):
    """One role of one model."""

    @property
    def name(self) -> str:
        """The model's name as rounds and metrics report it."""

    def stream(
        self, turns: Sequence[Turn], sampling: Sampling, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        """Complete `turns`, whose last one is a user's. Closing the generator aborts the completion.

        `deltas` False: nobody reads along, so one chunk at the end is enough (and cheaper).
        Raises ContextLengthExceeded and TokenBudgetExceeded before the first token, EngineFailed, EngineUnavailable.
        """


class Engine(Protocol):
    """Where the Leader and the Follower of one bundle run."""

    @property
    def manifest(self) -> Bundle: ...

    @property
    def leader(self) -> ChatModel: ...

    @property
    def follower(self) -> ChatModel: ...

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and completion together."""

    def check(self) -> None:
        """Raise EngineUnavailable when the engine has died."""

    def shutdown(self) -> None:
        """End the engine and every process it started."""
