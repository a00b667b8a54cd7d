"""What travels over HTTP: the requests, answers and events of `POST /v1/refine`, as pydantic models.

Server and client both use these types, so neither can drift from the other. OpenAI's names are kept where OpenAI has
the thing (`usage`, `finish_reason`, the error object); the rest is this project's contract (docs/api.md).

A *round* is one completion: round 0 is the draft (the Leader's, an upstream's or the client's), rounds 1..k are the
Follower's. Times are milliseconds, counts are tokens.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator

from slhf.history import Message

Role = Literal["leader", "follower", "client"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
DraftSource = Literal["leader", "client", "upstream"]
StopReason = Literal[
    "rounds_done",
    "unchanged",
    "small_edit",
    "no_gain",
    "judge_sure",
    "deadline",
    "token_budget",
    "context_length",
    "tool_calls",
    "invalid_structure",
    "error",
    "disabled",
    "shadowed",
]
Select = Literal["last", "judge"]
"""Which round is the answer: the last one, or the best by a judge, the draft among them."""
StopWhen = Literal["unchanged", "small_edit", "no_gain", "judge_sure"]
"""What a request may end its refinement by; each is the reason that it gives."""
JUDGED: frozenset[StopWhen] = frozenset({"no_gain", "judge_sure"})
"""Those that ask a judge."""

Temperature = Annotated[float, Field(ge=0, le=2, strict=True)]
TopP = Annotated[float, Field(gt=0, le=1, strict=True)]
Priority = Annotated[StrictInt, Field(ge=-(2**31), lt=2**31)]
"""vLLM's: lower runs first, and 0 is everybody's."""


def given(body: Any) -> Any:
    """A JSON object without the keys whose value is null; anything else as it is."""
    return {key: value for key, value in body.items() if value is not None} if isinstance(body, dict) else body


class Section(BaseModel):
    """A part of a request that is ours: an unknown key is an error that names it, and null is "not given"."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, body: Any) -> Any:
        return given(body)


class _Answer(BaseModel):
    """What the server writes: a newer server may say more than an older client knows."""

    model_config = ConfigDict(extra="ignore")


class RefineOptions(Section):
    """The `refine` object of a chat request, and top-level keys of `POST /v1/refine`."""

    rounds: Annotated[StrictInt, Field(ge=0)] | None = None
    """Follower rounds; None: the served model's default. 0 returns the draft byte for byte."""
    draft: StrictStr | None = None
    """The text to improve; None: the model's Leader drafts first."""
    on_error: Literal["return_draft", "fail"] = "return_draft"
    """What an error in a Follower round does: return the best finished text with its reason, or answer the error."""
    timeout_ms: Annotated[StrictInt, Field(gt=0)] | None = None
    """Time for the whole request, queueing included; then the best finished text is the answer."""
    max_total_tokens: Annotated[StrictInt, Field(gt=0)] | None = None
    """Prompt plus completion tokens over all rounds."""
    select: Select | None = None
    """`judge`: the answer is the best text by the model's judge, the draft among them. None: the model's default."""
    stop_when: list[StopWhen] | None = None
    """End after a round that one of these holds of. None: the served model's, unless `stop_when_unchanged`."""
    stop_when_unchanged: StrictBool = False
    """End when a round returns its draft unchanged: `stop_when` with `unchanged`."""
    return_rounds: StrictBool | None = None
    """Return every round's text; None: yes for `/v1/refine`, no for chat."""
    show_rounds: StrictBool = False
    """Streamed chat: send the earlier rounds as `reasoning_content`, which chat interfaces fold away."""
    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_tokens: Annotated[StrictInt, Field(gt=0)] | None = None
    instruction: StrictStr | None = None
    """An extra wish for this request, appended to the Follower's turn."""
    profile: StrictStr | None = None
    """One of the server's named ways to refine, for what is not given here; "none": not the key's or the model's."""


class RefineRequest(RefineOptions):
    """Body of `POST /v1/refine`. Exactly one of `messages` and `prompt` (one user turn) is given."""

    model: StrictStr | None = None
    """A served model's name; None: the server's default model."""
    messages: list[Message] | None = None
    prompt: StrictStr | None = None
    stream: StrictBool = False
    seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    """Each round's noise is derived from it, as in chat; None and -1: new noise every time."""
    priority: Priority | None = None
    """Lower runs first, in the queue and on the engine; None: the API key's, which is 0 unless its entry says more."""

    @model_validator(mode="after")
    def _one_conversation(self) -> "RefineRequest":
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("give exactly one of 'messages' and 'prompt'")
        return self


class PromptTokensDetails(_Answer):
    cached_tokens: int = 0


class CompletionTokensDetails(_Answer):
    reasoning_tokens: int = 0
    accepted_prediction_tokens: int = 0
    """Speculation: tokens guessed from the draft that the model confirmed."""
    rejected_prediction_tokens: int = 0
    """Guessed and not confirmed; unlike OpenAI, not part of `completion_tokens`."""


class Usage(_Answer):
    """Tokens of one completion or, added up, of several; OpenAI's shape."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    # Made anew, because pydantic copies a default deeply, which takes longer than all the rest of a Usage.
    prompt_tokens_details: PromptTokensDetails = Field(default_factory=PromptTokensDetails)
    completion_tokens_details: CompletionTokensDetails = Field(default_factory=CompletionTokensDetails)

    @classmethod
    def of(
        cls,
        prompt: int,
        completion: int,
        *,
        cached: int = 0,
        reasoning: int = 0,
        accepted: int = 0,
        rejected: int = 0,
    ) -> "Usage":
        return cls(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
            completion_tokens_details=CompletionTokensDetails(
                reasoning_tokens=reasoning,
                accepted_prediction_tokens=accepted,
                rejected_prediction_tokens=rejected,
            ),
        )

    def __add__(self, other: "Usage") -> "Usage":
        if not other.total_tokens:
            return self
        if not self.total_tokens:
            return other
        mine, theirs = self.completion_tokens_details, other.completion_tokens_details
        return Usage.of(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            cached=self.prompt_tokens_details.cached_tokens + other.prompt_tokens_details.cached_tokens,
            reasoning=mine.reasoning_tokens + theirs.reasoning_tokens,
            accepted=mine.accepted_prediction_tokens + theirs.accepted_prediction_tokens,
            rejected=mine.rejected_prediction_tokens + theirs.rejected_prediction_tokens,
        )


class TopLogprob(_Answer):
    token: str
    logprob: float
    """Natural logarithm."""
    bytes: list[int] | None = None
    """The token's UTF-8 bytes; one token may hold a part of a character."""


class TokenLogprob(TopLogprob):
    """OpenAI's log-probability of one generated token, and of the likeliest ones in its place."""

    top_logprobs: list[TopLogprob] = []


class Round(_Answer):
    """One finished round."""

    round: int
    role: Role
    model: str
    text: str
    finish_reason: FinishReason
    usage: Usage
    latency_ms: float
    edit_ratio: float | None = None
    """Share of words that differ from the text before it, 0 (same) to 1 (nothing kept); None for round 0."""
    tool_calls: list[dict[str, Any]] | None = None
    """OpenAI's tool calls of a Leader; such a turn is returned as it is."""
    lost: str | None = None
    """What the Follower's text had lost of the text before it, which then stands in its place."""


class RefinementUsage(_Answer):
    draft: Usage = Field(default_factory=Usage)
    rounds: list[Usage] = []
    """One entry for each Follower round that ran, finished or not: cut-off rounds cost tokens too."""

    judge: Usage = Field(default_factory=Usage)
    """Of all verdicts together."""

    def total(self) -> Usage:
        return sum([*self.rounds, self.judge], self.draft)


class Selection(_Answer):
    """What a judge has said of the rounds, each beside the best text before it."""

    judge: str
    """Its name in the server's settings."""
    round: int
    """The round whose text is the answer; 0 is the draft."""
    p: list[float | None]
    """How probably each Follower round is better than the best text before it; None: no verdict, or it abstains."""
    consistent: list[bool | None]
    """Whether the judge said the same in both orders; None: it sees no order, or there is no verdict."""


class Refinement(_Answer):
    """What happened, beside the answer itself."""

    applied: bool
    """True when the returned text is a Follower's."""
    rounds_requested: int
    rounds_run: int
    """Follower rounds that finished."""
    returned_round: int
    stop_reason: StopReason
    draft_source: DraftSource
    duration_ms: float
    usage: RefinementUsage
    tools_ignored: bool = False
    """Whether the request offered tools to a Leader that cannot call any, so that they were left out."""
    selection: Selection | None = None
    """None where no judge was to be asked."""
    profile: str | None = None
    """The named way to refine that filled in what the request left out."""
    rounds: list[Round] = []
    """Every finished round, the draft as round 0; empty unless `return_rounds`."""


class RefineResponse(_Answer):
    """Answer of `POST /v1/refine`."""

    id: str
    object: Literal["refinement"] = "refinement"
    created: int
    """Unix seconds."""
    model: str
    output: str
    finish_reason: FinishReason
    refinement: Refinement
    usage: Usage
    """Sum of `refinement.usage`."""


class ErrorBody(_Answer):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(_Answer):
    error: ErrorBody


class RoundStarted(_Answer):
    type: Literal["round.started"] = "round.started"
    round: int
    role: Role
    model: str


class RoundDelta(_Answer):
    type: Literal["round.delta"] = "round.delta"
    round: int
    delta: str
    logprobs: Annotated[list[TokenLogprob], Field(exclude=True)] = []
    """Log-probabilities of the piece's tokens, where the request asked for them; chat shows them."""
    tool_calls: Annotated[list[dict[str, Any]], Field(exclude=True)] = []
    """OpenAI's pieces of tool calls, which chat shows: a turn of the Leader that calls tools is the answer."""


class RoundCompleted(Round):
    type: Literal["round.completed"] = "round.completed"


class RoundJudged(_Answer):
    """What a judge says of a finished round."""

    type: Literal["round.judged"] = "round.judged"
    round: int
    against: int
    """The round whose text was the best before."""
    judge: str
    p: float | None
    """How probably the round's text is the better answer; None: the judge abstains, or has failed."""
    consistent: bool | None
    """Whether both orders agree; None: the judge sees no order, or has said nothing that can be read."""
    failed: bool = False
    """Whether the judge could not be asked, so that there is no verdict."""
    usage: Usage
    latency_ms: float


class RefinementCompleted(RefineResponse):
    type: Literal["refinement.completed"] = "refinement.completed"


class ErrorEvent(ErrorResponse):
    type: Literal["error"] = "error"


Event = Annotated[
    RoundStarted | RoundDelta | RoundCompleted | RoundJudged | RefinementCompleted | ErrorEvent,
    Field(discriminator="type"),
]
"""One server-sent event of a streamed `/v1/refine`; `type` equals the SSE `event:` field."""
