"""OpenAI's Responses request, as far as text and functions go: read as a conversation; nothing is stored."""

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, StrictBool, StrictStr, Tag, model_validator
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from slhf.history import SPOKEN, STRING_OR_LIST, AnyOf, Content, FunctionCall, History, Message, Original
from slhf.wire import Priority, RefineOptions, Section, Temperature, TopP, given
from slhf_server.api.openai.chat_request import Count, hide_earlier_rounds
from slhf_server.api.openai.parameters import RESPONSES, TOOLS
from slhf_server.api.parameter import check_drafter, document, filter_parameters
from slhf_server.api.planning import IN_REFINE
from slhf_server.models.base import SamplingParams
from slhf_server.refinement.job import Drafter
from slhf_server.refinement.planner import RefineParams

_OF_A_MESSAGE = tuple(key for key in Message.model_fields if key != "content")
_NOT_READ = ("reasoning", "mcp_list_tools", "mcp_approval_request")
"""Items that an answer's `output` may hold beside messages and calls of functions, as it may any other `..._call`."""


class InputMessage(Message):
    """One message of `input`. An answer's `output` can be appended to it as it is."""

    type: Literal["message"] | None = None

    def as_chat(self) -> dict[str, Any]:
        sent = self.sent
        turn = {key: sent[key] for key in _OF_A_MESSAGE if sent.get(key) is not None}
        if self.tool_calls:
            turn["tool_calls"] = [*turn["tool_calls"]]  # a copy, to which calls that follow are added
        return turn | {"content": _content(sent.get("content"), only_spoken=self.role == "assistant")}


class InputCall(FunctionCall):
    """A function's or a custom tool's call, as an answer's `output` holds it."""

    type: Literal["function_call", "custom_tool_call"]
    call_id: StrictStr | None = None

    def as_chat(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.call_id, "type": "function", "function": function}


class InputResult(Original):
    """What a called function answered."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: StrictStr
    output: Content

    def as_chat(self) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": self.call_id, "content": _content(self.sent["output"])}


class OtherItem(History):
    """An item that is no text. An item of a model's answer is not read; one that only a client can add is refused."""

    type: StrictStr

    @model_validator(mode="after")
    def _is_a_models(self) -> "OtherItem":
        if self.type not in _NOT_READ and not self.type.endswith("_call"):
            message = "'{kind}' is not read here: send messages of text, calls of functions and their outputs"
            raise PydanticCustomError("unsupported_item", message, {"kind": self.type[:60], "key": "type"})
        return self


_KINDS = {"message": "InputMessage", "function_call": "InputCall", "custom_tool_call": "InputCall"} | {
    "function_call_output": "InputResult",
    "custom_tool_call_output": "InputResult",
}


def _kind_of(item: Any) -> str:
    if isinstance(item, History):
        return type(item).__name__
    kind = item.get("type") if isinstance(item, dict) else None
    if kind is None:
        return "InputMessage"
    return _KINDS.get(kind, "OtherItem") if isinstance(kind, str) else "OtherItem"


Item = Annotated[
    Annotated[InputMessage, Tag("InputMessage")]
    | Annotated[InputCall, Tag("InputCall")]
    | Annotated[InputResult, Tag("InputResult")]
    | Annotated[OtherItem, Tag("OtherItem")],
    Discriminator(_kind_of),
    AnyOf(),
]


def _content(sent: Any, *, only_spoken: bool = False) -> Any:
    """A content in chat's form; `only_spoken` leaves out parts that are no text, as for an assistant's content."""
    if not isinstance(sent, list):
        return sent
    parts = [part for part in sent if not only_spoken or isinstance(part, str) or part.get("type") in SPOKEN]
    return [_part(part) for part in parts]


def _part(sent: Any) -> Any:
    """A part in chat's form, for an upstream; a part that chat does not have stays as it is."""
    match sent:
        case {"type": "input_text" | "output_text", "text": text}:
            return {"type": "text", "text": text}
        case {"type": "input_image", "image_url": str(url)}:
            detail = {} if sent.get("detail") is None else {"detail": sent["detail"]}
            return {"type": "image_url", "image_url": {"url": url} | detail}
        case {"type": "input_file"}:
            names = ("file_id", "filename", "file_data")
            return {"type": "file", "file": {name: sent[name] for name in names if sent.get(name) is not None}}
    return sent


class TextFormat(Section):
    """`text.format`: OpenAI's `response_format`, without the level that chat has between type and schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: StrictStr | None = None
    description: StrictStr | None = None
    strict: StrictBool | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None

    def told(self) -> dict[str, Any]:
        """The fields that were given. (pydantic's own dump gives up on a deeply nested schema.)"""
        told = {"name": self.name, "description": self.description, "strict": self.strict, "schema": self.schema_}
        present: dict[str, Any] = given(told)
        return {"type": self.type} | present

    def as_chat(self) -> dict[str, Any]:
        told = self.told()
        kind = told.pop("type")
        return {"type": kind, "json_schema": told} if kind == "json_schema" else {"type": kind}


class Text(Section):
    format: TextFormat = TextFormat(type="text")
    verbosity: Literal["medium"] | None = None

    def told(self) -> dict[str, Any]:
        return {"format": self.format.told()} | ({} if self.verbosity is None else {"verbosity": self.verbosity})


def _tool_as_chat(tool: Any) -> Any:
    """A function in chat's form, which has its description one level deeper; any other tool stays as it is."""
    if not isinstance(tool, dict) or tool.get("type") != "function":
        return tool
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


class ResponseRequest(Section):
    """Body of `POST /v1/responses`."""

    model_config = ConfigDict(json_schema_extra=document(RESPONSES))

    model: StrictStr | None = None
    input: Annotated[Annotated[StrictStr, Tag("string")] | Annotated[list[Item], Tag("list")], STRING_OR_LIST]
    instructions: StrictStr | None = None
    stream: StrictBool | None = None
    refine: RefineOptions = RefineOptions()
    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_output_tokens: Count | None = None
    text: Text = Text()
    priority: Priority | None = None
    about_tools: SkipJsonSchema[dict[str, Any]] = Field(default_factory=dict)
    """Tools, which of them and how many at once, by name, as they came."""

    @model_validator(mode="before")
    @classmethod
    def _decide_every_parameter(cls, body: Any) -> Any:
        kept = filter_parameters(body, RESPONSES)
        if not isinstance(kept, dict):
            return kept
        return kept | {"about_tools": {name: kept.pop(name) for name in TOOLS if name in kept}}

    @model_validator(mode="after")
    def _earlier_rounds_cannot_be_shown(self) -> "ResponseRequest":
        hide_earlier_rounds(self.refine, "response")
        return self

    def names(self) -> dict[str, str]:
        """Does as `GenerationRequest.names` does."""
        names = IN_REFINE | {"messages": "input", "max_tokens": "max_output_tokens", "response_format": "text.format"}
        names["response_format.json_schema"] = "text.format"
        tools = self.about_tools.get("tools")
        for at in range(len(tools) if isinstance(tools, list) else 0):
            names[f"tools.{at}.function"] = f"tools.{at}"
        if isinstance(self.input, list):
            for at, (place, _) in enumerate(self._turns, start=0 if self.instructions is None else 1):
                names[f"messages.{at}"] = f"input.{place}"
                if isinstance(self.input[place], InputResult):
                    names[f"messages.{at}.content"] = f"input.{place}.output"
        return names

    def params(self, request_id: str) -> RefineParams:
        """As `GenerationRequest.params`; the conversation as chat has it, instructions first."""
        system = [] if self.instructions is None else [Message(role="system", content=self.instructions)]
        return RefineParams(
            endpoint="responses",
            request_id=request_id,
            model=self.model,
            messages=system + [Message.model_validate(turn) for _, turn in self._turns],
            options=self.refine,
            sampling=SamplingParams(
                temperature=self.temperature,
                top_p=self.top_p,
                max_tokens=self.max_output_tokens,
                upstream_params=self._tools_as_chat(),
            ),
            deltas="last" if self.stream else "none",
            priority=self.priority,
            check_supported=self.check_supported,
        )

    def check_supported(self, drafter: Drafter) -> None:
        """Raises BadRequest for a parameter that whoever writes the draft cannot take."""
        check_drafter(RESPONSES, self.about_tools, drafter)

    def tools_told(self) -> dict[str, Any]:
        """What an answer says of tools: what was asked for, else OpenAI's defaults."""
        return {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True} | self.about_tools

    def _tools_as_chat(self) -> dict[str, Any]:
        told = dict(self.about_tools)
        if isinstance(tools := told.get("tools"), list):
            told["tools"] = [_tool_as_chat(tool) for tool in tools]
        if "tool_choice" in told:
            told["tool_choice"] = _tool_as_chat(told["tool_choice"])
        return told

    @cached_property
    def _turns(self) -> list[tuple[int, dict[str, Any]]]:
        """The input in chat's form, each message with the place of its first item, because chat has all calls of a turn
        in one message."""
        if isinstance(self.input, str):
            return [(0, {"role": "user", "content": self.input})]
        turns: list[tuple[int, dict[str, Any]]] = []
        for place, item in enumerate(self.input):
            if isinstance(item, InputMessage | InputResult):
                turns.append((place, item.as_chat()))
            elif isinstance(item, InputCall):
                if not turns or turns[-1][1]["role"] != "assistant":
                    turns.append((place, {"role": "assistant", "content": None}))
                turns[-1][1].setdefault("tool_calls", []).append(item.as_chat())
        return turns
