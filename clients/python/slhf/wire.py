"""What travels over HTTP: the requests, answers and events of `POST /v1/refine`, as pydantic models.

Server and client both use these types, so neither can drift from the other. OpenAI's names are kept where OpenAI has
the thing (`usage`, `finish_reason`, the error object); the rest is this project's contract (docs/api.md).

A *round* is one completion: round 0 is the draft (the Leader's, an upstream's or the client's), rounds 1..k are the
Follower's. Times are milliseconds, counts are tokens.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

Role = Literal["leader", "follower", "client"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
DraftSource = Literal["leader", "client", "upstream"]
StopReason = Literal[
    "rounds_done",
    "unchanged",
    "deadline",
    "token_budget",
    "context_length",
    "tool_calls",
    "invalid_structure",
    "error",
    "disabled",
]


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


class History(BaseModel):
    """A part of a conversation, which others wrote: what nothing here reads is no error."""

    model_config = ConfigDict(extra="ignore")


class Original(History):
    """A part of a conversation that is kept as it came, too."""

    _sent: Any = PrivateAttr(default=None)

    @model_validator(mode="wrap")
    @classmethod
    def _keep_what_was_sent(cls, sent: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        original = read(sent)
        if not isinstance(sent, BaseModel):
            original._sent = sent
        return original

    @model_serializer(mode="plain")
    def _as_it_came(self) -> Any:
        return self._sent

    @property
    def sent(self) -> Any:
        """The JSON that its author wrote."""
        return self._sent


class AnyOf:
    """Describes alternatives that overlap as they are: pydantic would say `oneOf`, as if its tags were in the JSON."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, describe: GetJsonSchemaHandler) -> dict[str, Any]:
        described = describe(schema)
        return {"anyOf": described.pop("oneOf"), **described}


class _Answer(BaseModel):
    """What the server writes: a newer server may say more than an older client knows."""

    model_config = ConfigDict(extra="ignore")


class TextPart(History):
    type: Literal["text", "input_text", "output_text"] | None = None
    text: StrictStr


class RefusalPart(History):
    type: Literal["refusal"]
    refusal: StrictStr


class OtherPart(History):
    """What a Follower cannot read: an image, a sound, a file, an assistant's thoughts, or a kind unknown here."""

    type: StrictStr | None = None


def _kind_of(part: Any) -> str:
    """Which of the parts it is; a bare string is one, too."""
    if isinstance(part, str | BaseModel):
        return type(part).__name__
    kind = part.get("type") if isinstance(part, dict) else "text"
    if kind == "refusal":
        return "RefusalPart"
    is_text = kind in ("text", "input_text", "output_text") or (kind is None and "text" in part)
    return "TextPart" if is_text else "OtherPart"


Part = Annotated[
    Annotated[StrictStr, Tag("str")]
    | Annotated[TextPart, Tag("TextPart")]
    | Annotated[RefusalPart, Tag("RefusalPart")]
    | Annotated[OtherPart, Tag("OtherPart")],
    Discriminator(_kind_of),
    AnyOf(),
]
STRING_OR_LIST = Discriminator(lambda value: "list" if isinstance(value, list) else "string")
"""Says which of the two a value was meant to be, so that an error speaks of that one."""
Content = Annotated[Annotated[StrictStr, Tag("string")] | Annotated[list[Part], Tag("list")], STRING_OR_LIST]


def text_of(content: str | Sequence[str | TextPart | RefusalPart | OtherPart] | None) -> str:
    """A content as one string: texts are joined by a newline, other parts left out."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(_said(part) for part in content if not isinstance(part, OtherPart))


def _said(part: str | TextPart | RefusalPart) -> str:
    if isinstance(part, str):
        return part
    return part.text if isinstance(part, TextPart) else part.refusal


def _as_json(arguments: Any) -> Any:
    """A call's arguments as text: some frameworks keep the object."""
    try:
        return json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else arguments or "{}"
    except RecursionError as exc:
        raise ValueError("the arguments are nested too deeply") from exc


class FunctionCall(History):
    name: StrictStr
    arguments: Annotated[
        StrictStr,
        BeforeValidator(_as_json, json_schema_input_type=str | dict[str, Any] | None),
        Field(validation_alias=AliasChoices("arguments", "input")),
    ] = "{}"
    """JSON, as the model wrote it: it may be invalid. A custom tool's is any text."""


class ToolCall(History):
    """A tool call in an assistant's message."""

    id: StrictStr | None = None
    function: FunctionCall | None = None
    custom: FunctionCall | None = None

    @property
    def called(self) -> FunctionCall | None:
        """What was called; None for kinds of calls that are no function's."""
        return self.function or self.custom


class Message(Original):
    """One turn of the conversation, as OpenAI's chat API has it; `developer` is read as `system`.

    `sent` is what an upstream gets.
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = None
    """None in an assistant's turn or a tool's alone. Of an assistant's parts, those that are no text are not read."""
    name: StrictStr | None = None
    """Not shown to the model, for chat templates have no place for it; a tool's is, with its result."""
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None
    """OpenAI's older form of `tool_calls`; its result has the role `function`."""
    tool_call_id: StrictStr | None = None
    tool_name: StrictStr | None = None
    """Ollama's way to say whose result it is."""
    refusal: StrictStr | None = None
    audio: Any = None
    """OpenAI's spoken answer, of which the transcript is read."""

    @model_validator(mode="after")
    def _has_what_its_role_needs(self) -> "Message":
        if self.role == "assistant":
            return self
        if self.tool_calls or self.function_call:
            raise ValueError(f"tool_calls in a message of role {self.role}: only an assistant's has them")
        if self.is_result:
            if self.tool_call_id is None and self.tool is None:
                raise ValueError("a tool's message needs a tool_call_id (or the tool's name)")
        elif self.content is None:
            raise ValueError(f"{self.role} message without content")
        return self

    @property
    def is_result(self) -> bool:
        """Whether it is what a tool answered."""
        return self.role in ("tool", "function")

    @property
    def tool(self) -> str | None:
        """The name of the tool whose result it is, where the message itself says it."""
        return self.name or self.tool_name

    @property
    def calls(self) -> list[tuple[str | None, FunctionCall]]:
        """The functions that an assistant called, each with the call's id."""
        called = [(call.id, call.called) for call in self.tool_calls or ()]
        return [(id, call) for id, call in [*called, (None, self.function_call)] if call is not None]

    @property
    def text(self) -> str:
        """The content as one string; an assistant's refusal or the transcript of its speech where there is none."""
        said = self.audio.get("transcript") if isinstance(self.audio, dict) else None
        return text_of(self.content) or self.refusal or (said if isinstance(said, str) else "")

    @property
    def unread(self) -> set[str]:
        """Names of the keys in it, and in its parts and calls, that nothing here reads."""
        content, calls = self.sent.get("content"), self.sent.get("tool_calls")
        parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
        return {
            *(self.sent.keys() - type(self).model_fields.keys()),
            *(f"content.{key}" for part in parts for key in part.keys() - {"type", "text", "refusal"}),
            *(f"tool_calls.{key}" for call in calls or () for key in call.keys() - {"type", *ToolCall.model_fields}),
        }

    @property
    def others(self) -> list[tuple[int, str]]:
        """Position and type of the parts that are no text, such as images: nothing may drop them unsaid.

        An assistant's are left out: what it thought or called beside its answer is no part of the conversation.
        """
        if self.role == "assistant" or not isinstance(self.content, list):
            return []
        return [(at, part.type or "") for at, part in enumerate(self.content) if isinstance(part, OtherPart)]


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
    stop_when_unchanged: StrictBool = False
    """End when a round returns its draft unchanged."""
    return_rounds: StrictBool | None = None
    """Return every round's text; None: yes for `/v1/refine`, no for chat."""
    show_rounds: StrictBool = False
    """Streamed chat: send the earlier rounds as `reasoning_content`, which chat interfaces fold away."""
    temperature: Annotated[float, Field(ge=0, le=2, strict=True)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, strict=True)] | None = None
    max_tokens: Annotated[StrictInt, Field(gt=0)] | None = None
    instruction: StrictStr | None = None
    """An extra wish for this request, appended to the Follower's turn."""


class RefineRequest(RefineOptions):
    """Body of `POST /v1/refine`. Exactly one of `messages` and `prompt` (one user turn) is given."""

    model: StrictStr | None = None
    """A served model's name; None: the server's default model."""
    messages: list[Message] | None = None
    prompt: StrictStr | None = None
    stream: StrictBool = False

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
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            total_tokens=self.total_tokens + other.total_tokens,
            prompt_tokens_details=_added(self.prompt_tokens_details, other.prompt_tokens_details),
            completion_tokens_details=_added(self.completion_tokens_details, other.completion_tokens_details),
        )


Details = TypeVar("Details", PromptTokensDetails, CompletionTokensDetails)


def _added(one: Details, other: Details) -> Details:
    """Two counts of the same kind, field by field."""
    return type(one)(**{name: getattr(one, name) + getattr(other, name) for name in type(one).model_fields})


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
    """OpenAI's tool calls of an upstream Leader; such a turn is returned as it is."""


class RefinementUsage(_Answer):
    draft: Usage = Field(default_factory=Usage)
    rounds: list[Usage] = []
    """One entry for each Follower round that ran, finished or not: cut-off rounds cost tokens too."""

    def total(self) -> Usage:
        return sum(self.rounds, self.draft)


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
    """Of the piece's tokens, where the request asked for them; chat shows them."""


class RoundCompleted(Round):
    type: Literal["round.completed"] = "round.completed"


class RefinementCompleted(RefineResponse):
    type: Literal["refinement.completed"] = "refinement.completed"


class ErrorEvent(ErrorResponse):
    type: Literal["error"] = "error"


Event = Annotated[
    RoundStarted | RoundDelta | RoundCompleted | RefinementCompleted | ErrorEvent, Field(discriminator="type")
]
"""One server-sent event of a streamed `/v1/refine`; `type` equals the SSE `event:` field."""


class ModelCard(_Answer):
    """One entry of `GET /v1/models`: OpenAI's shape, vLLM's extras, and the bundle's card."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "slhf"
    root: str
    """The base model."""
    parent: str | None = None
    max_model_len: int | None = None
    """Tokens of prompt and completion together; None while the engine is loading."""
    card: dict[str, Any] = {}


class ModelList(_Answer):
    object: Literal["list"] = "list"
    data: list[ModelCard]
