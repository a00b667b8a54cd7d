"""Anthropic's messages request. The table in message_parameters.py decides what becomes of each of its parameters."""

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator

from slhf.history import Content, History, Message
from slhf.wire import Priority, RefineOptions, Section, Temperature, TopP
from slhf_server.api.anthropic.blocks import ConversationMessage, Placed, as_chat, system_as_chat
from slhf_server.api.anthropic.message_parameters import COUNT_TOKENS, EFFORT, MESSAGES
from slhf_server.api.parameter import check_drafter, document, filter_parameters
from slhf_server.api.planning import IN_REFINE
from slhf_server.models.base import SamplingParams
from slhf_server.refinement.job import Drafter
from slhf_server.refinement.planner import RefineParams


class Tool(History):
    """A tool of the client's own. Anthropic's tools, which it runs itself or has trained for, have other types."""

    type: Literal["custom"] | None = None
    name: StrictStr
    description: StrictStr | None = None
    input_schema: dict[str, Any] = Field(default_factory=lambda: {"type": "object"})
    strict: StrictBool | None = None

    def as_chat(self) -> dict[str, Any]:
        told = {"name": self.name, "description": self.description, "strict": self.strict}
        function = {name: value for name, value in told.items() if value is not None}
        return {"type": "function", "function": function | {"parameters": self.input_schema}}


class ToolChoice(Section):
    """Which tools may or must be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: StrictStr | None = None
    disable_parallel_tool_use: StrictBool | None = None

    @model_validator(mode="after")
    def _a_tool_has_a_name(self) -> "ToolChoice":
        if self.type == "tool" and self.name is None:
            raise ValueError("tool_choice of type tool needs the tool's name")
        return self

    def as_chat(self) -> dict[str, Any]:
        """OpenAI's two parameters for it."""
        named = {"type": "function", "function": {"name": self.name}}
        chosen = {"auto": "auto", "any": "required", "none": "none", "tool": named}[self.type]
        return {"tool_choice": chosen} | ({"parallel_tool_calls": False} if self.disable_parallel_tool_use else {})


class Thinking(History):
    """How much an upstream may think; `display` is not read."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[StrictInt, Field(gt=0)] | None = None


class JsonFormat(Section):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]

    def as_chat(self) -> dict[str, Any]:
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": self.schema_}}


class OutputConfig(Section):
    format: JsonFormat | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class Prompt(Section):
    """What an answer is asked for: what messages and counting have in common."""

    model: StrictStr | None = None
    messages: Annotated[list[ConversationMessage], Field(fail_fast=True)]
    system: Content | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None

    def chat(self) -> list[Message]:
        """The conversation as chat has it, the system prompt first."""
        return [Message.model_validate(placed.message) for placed in self._placed]

    def names(self) -> dict[str, str]:
        """Does as `GenerationRequest.names` does (api/openai)."""
        renamed = {"parallel_tool_calls": "tool_choice", "stop": "stop_sequences"}
        renamed |= {"reasoning_effort": "output_config.effort", "response_format": "output_config.format"}
        for number in range(len(self.tools or ())):
            function = f"tools.{number}.function"
            renamed |= {function: f"tools.{number}", f"{function}.parameters": f"tools.{number}.input_schema"}
        for number, placed in enumerate(self._placed):
            renamed |= placed.names(number)
        return IN_REFINE | renamed

    def for_the_leader(self) -> dict[str, Any]:
        """What only some Leaders take, by its name here, as `check_drafter` compares it with the table."""
        sections = {"tool_choice": self.tool_choice, "thinking": self.thinking}
        told = {name: section and section.model_dump(exclude_none=True) for name, section in sections.items()}
        return {"tools": self.tools, **told}

    def tools_as_chat(self) -> dict[str, Any]:
        """Chat's parameters of tools."""
        told: dict[str, Any] = {} if not self.tools else {"tools": [tool.as_chat() for tool in self.tools]}
        if self.tool_choice is not None and (self.tools or self.tool_choice.type in ("any", "tool")):
            told |= self.tool_choice.as_chat()
        return told

    @cached_property
    def _placed(self) -> list[Placed]:
        system = [] if self.system is None else [system_as_chat(self._system_as_sent())]
        return [*system, *as_chat(self.messages)]

    def _system_as_sent(self) -> str | list[Any]:
        if isinstance(self.system, str):
            return self.system
        return [part if isinstance(part, str) else part.model_dump(exclude_none=True) for part in self.system or ()]


class MessageRequest(Prompt):
    """Body of `POST /v1/messages`."""

    model_config = ConfigDict(json_schema_extra=document(MESSAGES))

    max_tokens: Annotated[StrictInt, Field(gt=0)]
    stream: StrictBool | None = None
    refine: RefineOptions = Field(default_factory=RefineOptions)
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Annotated[StrictInt, Field(ge=0, lt=2**31)] | None = None
    stop_sequences: Annotated[list[StrictStr], Field(max_length=16)] | None = None
    output_config: OutputConfig = Field(default_factory=OutputConfig)
    priority: Priority | None = None

    @model_validator(mode="before")
    @classmethod
    def _decide_every_parameter(cls, body: Any) -> Any:
        return filter_parameters(body, MESSAGES)

    def params(self, request_id: str) -> RefineParams:
        """What is asked for, with the conversation and the tools as chat has them."""
        return RefineParams(
            endpoint="messages",
            request_id=request_id,
            model=self.model,
            messages=self.chat(),
            options=self.refine,
            sampling=self._sampling(),
            deltas="none" if not self.stream else "all" if self.refine.show_rounds else "last",
            check_supported=self.check_supported,
            priority=self.priority,
        )

    def check_supported(self, drafter: Drafter) -> None:
        """Raises BadRequest for a parameter that whoever writes the draft cannot take."""
        asked = self.for_the_leader() | {"output_config.effort": self.output_config.effort}
        check_drafter(MESSAGES | EFFORT, asked, drafter)

    def response_format(self) -> dict[str, Any] | None:
        """`output_config.format` as chat has it."""
        return None if self.output_config.format is None else self.output_config.format.as_chat()

    def _sampling(self) -> SamplingParams:
        """For both roles."""
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            max_tokens=self.max_tokens,
            stop=tuple(self.stop_sequences or ()),
            upstream_params=self._upstream_params(),
        )

    def _upstream_params(self) -> dict[str, Any]:
        told = self.tools_as_chat()
        if self.thinking is not None and self.thinking.type in ("enabled", "between_tools"):
            told["thinking"] = self.thinking.model_dump(exclude_none=True)
        if self.output_config.effort is not None:
            told["reasoning_effort"] = self.output_config.effort
        return told


class CountRequest(Prompt):
    """Body of `POST /v1/messages/count_tokens`."""

    model_config = ConfigDict(json_schema_extra=document(COUNT_TOKENS))

    @model_validator(mode="before")
    @classmethod
    def _decide_every_parameter(cls, body: Any) -> Any:
        return filter_parameters(body, COUNT_TOKENS)

    def check_supported(self, drafter: Drafter) -> None:
        """Does as `MessageRequest.check_supported` does."""
        check_drafter(COUNT_TOKENS, self.for_the_leader(), drafter)
