"""OpenAI's Responses request, as far as text goes: read as a chat, answered without storing anything."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StrictBool, StrictStr, Tag, model_validator

from slhf.wire import Message, RefineOptions, TextPart
from slhf_server.chat import ChatRequest, Count
from slhf_server.parameters import RESPONSES, decided, shown


class InputText(BaseModel):
    """A part of a message: what was asked (`input_text`) or answered (`output_text`)."""

    model_config = ConfigDict(extra="ignore")  # an answer's part has annotations and the like

    type: Literal["input_text", "output_text"]
    text: StrictStr


class InputMessage(BaseModel):
    """One message of `input`; an answer's `output` can be appended as it is."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[
        Annotated[StrictStr, Tag("text")] | Annotated[list[InputText], Tag("parts")],
        Discriminator(lambda content: "parts" if isinstance(content, list) else "text"),
    ]
    id: StrictStr | None = None
    status: StrictStr | None = None
    phase: StrictStr | None = None

    def as_chat(self) -> Message:
        if isinstance(self.content, str):
            return Message(role=self.role, content=self.content)
        return Message(role=self.role, content=[TextPart(type="text", text=part.text) for part in self.content])


class TextFormat(BaseModel):
    """`text.format`: OpenAI's `response_format`, without the level that chat has between type and schema."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    type: Literal["text", "json_object", "json_schema"]
    name: StrictStr | None = None
    description: StrictStr | None = None
    strict: StrictBool | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None

    def as_chat(self) -> dict[str, Any]:
        if self.type != "json_schema":
            return {"type": self.type}
        given = self.model_dump(by_alias=True, exclude_none=True, exclude={"type"})
        return {"type": self.type, "json_schema": given}


class Text(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: TextFormat = TextFormat(type="text")
    verbosity: Literal["medium"] | None = None


class ResponseRequest(BaseModel):
    """Body of `POST /v1/responses`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=shown(RESPONSES))

    model: StrictStr | None = None
    input: Annotated[
        Annotated[StrictStr, Tag("text")] | Annotated[list[InputMessage], Tag("messages")],
        Discriminator(lambda given: "messages" if isinstance(given, list) else "text"),
    ]
    instructions: StrictStr | None = None
    stream: StrictBool | None = None
    refine: RefineOptions = RefineOptions()
    temperature: Annotated[float, Field(ge=0, le=2, strict=True)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, strict=True)] | None = None
    max_output_tokens: Count | None = None
    text: Text = Text()

    @model_validator(mode="before")
    @classmethod
    def _decide_every_parameter(cls, body: Any) -> Any:
        return decided(body, RESPONSES)

    @model_validator(mode="after")
    def _earlier_rounds_cannot_be_shown(self) -> "ResponseRequest":
        if self.refine.show_rounds:
            raise ValueError("refine.show_rounds: a response has no place for earlier rounds; use chat")
        return self

    def as_chat(self) -> ChatRequest:
        asked = self.input if isinstance(self.input, list) else [InputMessage(role="user", content=self.input)]
        system = [] if self.instructions is None else [Message(role="system", content=self.instructions)]
        shared = {name: getattr(self, name) for name in ("model", "stream", "refine", "temperature", "top_p")}
        own = {
            "messages": system + [message.as_chat() for message in asked],
            "max_tokens": self.max_output_tokens,
            "response_format": self.text.format.as_chat(),
        }
        return ChatRequest.model_validate(shared | own)
