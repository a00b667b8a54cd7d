"""The conversation of a request: messages that others wrote, read openly and kept as they came.

Every OpenAI-compatible server and library puts keys and parts of its own into what it answers, and clients send that
back. So nothing here refuses what it does not know; the server refuses by name what would not be read.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

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
    StrictStr,
    Tag,
    model_serializer,
    model_validator,
)


class History(BaseModel):
    """A part of a conversation that others wrote; a key that nothing here reads is no error."""

    model_config = ConfigDict(extra="ignore")


class Original(History):
    """A part of a conversation that is also kept as it came."""

    _sent: Any = PrivateAttr()

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
    """Describes overlapping alternatives by `anyOf`; pydantic would write `oneOf`, as if its tags were in the JSON."""

    def __get_pydantic_json_schema__(self, schema: Any, describe: GetJsonSchemaHandler) -> dict[str, Any]:
        described = describe(schema)
        return {"anyOf": described.pop("oneOf"), **described}


class TextPart(History):
    type: Literal["text", "input_text", "output_text"] | None = None
    text: StrictStr


class RefusalPart(History):
    type: Literal["refusal"]
    refusal: StrictStr


class OtherPart(History):
    """What a Follower cannot read: an image, a sound, a file, an assistant's thoughts, or a kind unknown here."""

    type: StrictStr | None = None


SPOKEN = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""The types of parts that are text, each with the key that holds it."""


def _kind_of(part: Any) -> str:
    """The name of the part's class; a bare string is a part, too. A part whose text is null holds no text."""
    if isinstance(part, str | BaseModel):
        return type(part).__name__
    if not isinstance(part, dict):
        return "OtherPart"
    kind = part.get("type") or "text"
    if not isinstance(kind, str) or kind not in SPOKEN or part.get(SPOKEN[kind]) is None:
        return "OtherPart"
    return "RefusalPart" if kind == "refusal" else "TextPart"


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
    """JSON as the model wrote it, which may be invalid; for a custom tool, any text."""


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
    """None is allowed in an assistant's or a tool's turn alone. An assistant's parts that are no text are not read."""
    name: StrictStr | None = None
    """It is not shown to the model, because chat templates have no place for it; a tool's is, with its result."""
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
        """Whether the message is what a tool answered."""
        return self.role in ("tool", "function")

    @property
    def tool(self) -> str | None:
        """The name of the tool whose result this is, where the message itself says it."""
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
        """Names of the keys in the message, its parts and its calls that nothing here reads."""
        content, calls = self.sent.get("content"), self.sent.get("tool_calls")
        parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
        return {
            *(self.sent.keys() - type(self).model_fields.keys()),
            *(f"content.{key}" for part in parts for key in part.keys() - {"type", "text", "refusal"}),
            *(f"tool_calls.{key}" for call in calls or () for key in call.keys() - {"type", *ToolCall.model_fields}),
        }

    @property
    def others(self) -> list[tuple[int, str]]:
        """Position and type of the parts that are no text, such as images, which may not be dropped silently.

        An assistant's are left out: what it thought or called beside its answer is no part of the conversation.
        """
        if self.role == "assistant" or not isinstance(self.content, list):
            return []
        return [(at, part.type or "") for at, part in enumerate(self.content) if isinstance(part, OtherPart)]
