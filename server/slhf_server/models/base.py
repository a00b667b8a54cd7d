"""The interface that every model implements: stream one completion of a conversation.

The vLLM engine's two roles (engine/), an upstream (upstream/) and the fake (fake.py) implement it; the refinement
loop knows nothing else.
"""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from slhf.bundle import Bundle
from slhf.chats import ToolTurn
from slhf.wire import FinishReason, TokenLogprob
from slhf_server.models.structured_output.response_format import StructuredOutput
from slhf_server.models.tools import Tools


@dataclass(frozen=True, slots=True)
class Turn:
    """One message as a model sees it."""

    role: str
    text: str
    token_ids: tuple[int, ...] | None = None
    """The ids that a model of ours generated for exactly this text; None: encode the text.

    Decoding and encoding again may give other ids, and then vLLM's prefix cache misses the whole answer.
    """
    message: Mapping[str, Any] | None = None
    """The message as the client sent it, with images and tool calls, for an upstream. None: role and text are all."""
    tool_turns: tuple[ToolTurn, ...] = ()
    """Where the text tells tool calls or results in words: the same as a chat template that knows tools has it."""


def request_of(turns: Sequence[Turn]) -> str:
    """The text of the last user turn; nothing where a tool's result is part of it, because nobody asked for that."""
    asking = next((turn for turn in reversed(turns) if turn.role == "user"), None)
    return "" if asking is None or asking.tool_turns else asking.text


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample one completion, by vLLM's names. None is the bundle's default, or else the engine's."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    """Completion tokens, up to what the context leaves; None: as many as it leaves."""
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
    logit_bias: Mapping[str, float] | None = None
    """Biases by token id, which is a string as in OpenAI's API."""
    bad_words: tuple[str, ...] | None = None
    stop_token_ids: tuple[int, ...] | None = None
    allowed_token_ids: tuple[int, ...] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    logprobs: int | None = None
    """None: no log-probabilities; n: those of each token and of the n likeliest in its place."""
    structure: StructuredOutput | None = None
    """What the text must be; the engine's grammar lets it write nothing else."""
    pattern: str | None = None
    """A regular expression that the whole text must match, by the engine's grammar; where there is a structure, that
    alone holds. An upstream never gets it."""
    cache_salt: str | None = None
    """The engine's prefix cache is shared among completions of the same salt alone. An upstream never gets it."""
    priority: int = 0
    """vLLM's: lower runs first. An engine's role adds its own step to it, and an upstream never gets it."""
    upstream_params: Mapping[str, Any] = field(default_factory=dict)
    """Parameters that an upstream alone understands (tools and the like), as the client sent them."""
    dispensable: frozenset[str] = frozenset()
    """Names of what is set above and nobody asked for: an upstream that refuses it is asked again without it."""
    tools: Tools | None = None
    """What the bundle's own Leader may call; an upstream's are in `upstream_params`."""
    template_options: Mapping[str, Any] = field(default_factory=dict)
    """Variables of the chat template (`enable_thinking` and the like), for the bundle's models."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a completion, in order. The last one carries `finish_reason`."""

    text: str
    """It may begin with thoughts, `<think>...</think>`, which the reader takes out (reasoning.py)."""
    completion_tokens: int
    """Tokens of this piece. An upstream reports its tokens on the last chunk alone, if at all."""
    prompt_tokens: int = 0
    """Tokens of the whole prompt, on every chunk."""
    cached_tokens: int = 0
    """How many of the prompt's tokens the prefix cache held."""
    finish_reason: FinishReason | None = None
    stop_sequence: str | None = None
    """On the last chunk: the request's stop string that ended the text; None: none did, or an upstream does not say."""
    accepted_tokens: int = 0
    """On the last chunk: tokens guessed from the prompt (draft as speculation) that the model confirmed."""
    rejected_tokens: int = 0
    """On the last chunk: tokens guessed and not confirmed."""
    token_ids: tuple[int, ...] | None = None
    """On the last chunk: the ids of the whole text, when they decode to exactly that text."""
    proven: bool = False
    """On the last chunk: whether a program has run the text, and found that it does what its draft fails to do."""
    reasoning_tokens: int = 0
    """On the last chunk: how many of the completion's tokens are thoughts."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Log-probabilities of this piece's tokens, where they were asked for."""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """On the last chunk: OpenAI's tool calls, whole. Empty where they have come as `call_deltas`."""
    call_deltas: tuple[Mapping[str, Any], ...] = ()
    """OpenAI's pieces of tool calls, each with the `index` of its call, as an own Leader writes them."""


class ChatModel(Protocol):
    """One role of one model."""

    @property
    def name(self) -> str:
        """The model's name as rounds and metrics report it."""

    def stream(
        self, turns: Sequence[Turn], sampling: SamplingParams, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        """Complete `turns`, whose last one is a user's. Closing the generator aborts the completion.

        `request_id` is the refinement's id, a dash, and what tells its completions apart.

        `deltas` says whether the pieces are needed as they come; if not, one chunk at the end is enough and cheaper.
        Raises BadRequest, ContextLengthExceeded and TokenBudgetExceeded before the first token; EngineFailed and
        EngineUnavailable, or an upstream's UpstreamFailed and UpstreamUnavailable, at any time.
        """


class Tokenizer(Protocol):
    """Text as the engine's token ids. A call may take seconds for a long text: make it in a thread."""

    def chat_ids(
        self, turns: Sequence[Turn], most: int, *, generation_prompt: bool = True, special_tokens: bool = False
    ) -> list[int]:
        """The ids of a conversation in the model's chat template, as a round's prompt has them.

        `generation_prompt`: whether it ends where an assistant's next turn begins. `special_tokens`: whether the
        tokenizer's own come on top of the template's. Raises BadRequest where the template refuses the conversation,
        and ContextLengthExceeded for more than `most` of them.
        """

    def count(self, turns: Sequence[Turn], most: int, tools: Sequence[Mapping[str, Any]] = ()) -> int:
        """How many ids a prompt of these turns has that tells of these tools. Raises as `chat_ids`, if one turn alone
        has more than `most`."""

    def text_ids(self, text: str, most: int, *, special_tokens: bool) -> list[int]:
        """The ids of a text. Raises ContextLengthExceeded for more than `most` of them."""

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """How the vocabulary spells each token; an empty string where no token has the id."""

    def text(self, ids: Sequence[int]) -> str:
        """The text that the ids stand for, special tokens included. Raises UnknownToken."""


class Engine(Protocol):
    """Where the Leader and the Follower of one bundle run."""

    @property
    def manifest(self) -> Bundle: ...

    @property
    def leader(self) -> ChatModel: ...

    @property
    def follower(self) -> ChatModel: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and completion together."""

    @property
    def calls_tools(self) -> bool:
        """Whether the Leader's template shows tools and its calls can be read."""

    @property
    def template_options(self) -> Collection[str]:
        """The variables of the chat template that a request may set."""

    def check(self) -> None:
        """Raises EngineUnavailable when the engine has died."""

    def shutdown(self) -> None:
        """End the engine and every process it started."""


class OwnEngine(Engine, Protocol):
    """An engine in this process, which may sleep: the device's memory is then free for others."""

    @property
    def sleep_obstacle(self) -> str | None:
        """Why it cannot sleep; None: it can."""

    async def sleep(self) -> None:
        """Leave the device, once every completion has ended. No prefix is in the cache afterwards."""

    async def wake_up(self) -> None:
        """Come back to the device, with the same weights."""


class RemoteEngine(Engine, Protocol):
    """An engine on other servers, which may be there or not."""

    def check(self) -> None:
        """Raises EngineUnavailable until a server has answered."""

    async def await_answer(self) -> None:
        """Ask each server until it has answered. Raises SettingsError where it cannot be this engine's."""

    async def close(self) -> None:
        """Close every connection."""
