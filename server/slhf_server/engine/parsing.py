"""vLLM's registered parsers, which read tool calls and thoughts out of what a model writes.

Each family of models writes them in a way of its own; the names are those of `vllm serve --tool-call-parser` and
`--reasoning-parser`. Whatever the family, what comes out has OpenAI's tool calls beside its text, and thoughts stand as
`<think>...</think>` before it, as everything behind this room expects them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from vllm.entrypoints.generate.base.protocol import DeltaMessage, DeltaToolCall, FunctionCall, FunctionDefinition
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser import Parser, ParserManager
from vllm.reasoning import ReasoningParserManager
from vllm.renderers.chat_utils import make_tool_call_id
from vllm.tool_parsers import ToolParserManager
from vllm.tool_parsers.streaming import extract_required_tool_call_streaming

from slhf.turns import CLOSE_THOUGHT, OPEN_THOUGHT
from slhf_server.engine.completion import Said
from slhf_server.models.base import SamplingParams
from slhf_server.models.tools import Tools
from slhf_server.settings.problem import SettingsError

_FAMILIES: Sequence[tuple[str, str]] = (
    ("mistral", r"\[TOOL_CALLS\]"),
    ("deepseek_v3", r"<｜tool▁calls▁begin｜>(?s:.*)```json"),
    ("deepseek_v31", r"<｜tool▁calls▁begin｜>"),
    ("granite", r"<\|tool_call\|>"),
    ("granite4", r"<\|start_of_role\|>(?s:.*)<tool_call>"),
    ("qwen3_coder", r"<tool_call>(?s:.*)<function="),
    ("hermes", r"<tool_call>"),
    ("llama3_json", r"<\|python_tag\|>|<\|start_header_id\|>(?s:.*)\"parameters\": "),
)
"""vLLM's parsers by what a template of their family writes; the first that fits."""
_CALLS = TypeAdapter(list[FunctionDefinition])


def detected_tool_parser(template: str) -> str | None:
    """The parser of a template's family, or None where the template tells of no calls that we know."""
    return next((name for name, written in _FAMILIES if re.search(written, template)), None)


class OutputParsers:
    """The parsers of one model's output."""

    def __init__(self, tokenizer: Any, tool_parser: str | None = None, reasoning_parser: str | None = None) -> None:
        """The names are vLLM's. Raises SettingsError where one is not registered or cannot read this model."""
        self.calls_tools = tool_parser is not None
        self.reasoning_parser = reasoning_parser
        self._tokenizer = tokenizer
        self._thoughts = _composed(tokenizer, None, reasoning_parser)
        self._all = _composed(tokenizer, tool_parser, reasoning_parser)

    def engine_options(self, sampling: SamplingParams) -> dict[str, Any]:
        """What vLLM's engine wants to know to begin a grammar where the thoughts have ended."""
        if self.reasoning_parser is None:
            return {}
        return {"reasoning_parser_kwargs": {"chat_template_kwargs": dict(sampling.template_options)}}

    def reading(self, sampling: SamplingParams, prompt_ids: Sequence[int]) -> "Reading | None":
        """What reads one completion; None where there is nothing to look for."""
        tools = sampling.tools
        forced = tools is not None and tools.forced  # its grammar writes JSON, whatever the family
        made = self._thoughts if tools is None or forced else self._all
        if made is None and not forced:
            return None
        request = _request(None if forced else tools)
        parser = None
        if made is not None:
            parser = made(self._tokenizer, request.tools, chat_template_kwargs=dict(sampling.template_options))
            request = parser.adjust_request(request)
        return Reading(parser, request, tools, list(prompt_ids))


@dataclass(slots=True)
class Reading:
    """Reads one completion: piece by piece, or whole."""

    parser: Parser | None
    request: ChatCompletionRequest
    tools: Tools | None
    prompt_ids: list[int]
    _begun: bool = False
    _thinking: bool = False
    _json: str = ""

    @property
    def shows_special_tokens(self) -> bool:
        """Whether calls or thoughts are marked by special tokens, so that the text must hold them."""
        return not self.request.skip_special_tokens

    def piece(self, text: str, ids: Sequence[int], *, finished: bool) -> Said:
        """Read the next piece; `ids` are its tokens."""
        if self.parser is None:
            return self._sorted(DeltaMessage(content=text))
        prompt, self._begun = (None if self._begun else self.prompt_ids), True
        delta = self.parser.parse_delta(text, list(ids), self.request, prompt, finished=finished)
        return self._sorted(delta or DeltaMessage())

    def whole(self, text: str, ids: Sequence[int]) -> Said:
        """Read a whole completion."""
        thoughts, content, calls = None, text or None, None
        if self.parser is not None:
            self.parser.set_prompt_token_ids(self.prompt_ids)
            thoughts, content, calls = self.parser.parse(text, self.request, True, ids)
        if self._is_forced:
            calls, content = self._forced(content or ""), None
        told = "" if thoughts is None else f"{OPEN_THOUGHT}{_without_tags(thoughts)}"
        if thoughts is not None and (content is not None or calls):  # else tokens ran out among the thoughts
            told += CLOSE_THOUGHT
        return Said(told + (content or ""), self._allowed([_call(at, call) for at, call in enumerate(calls or ())]))

    @property
    def _is_forced(self) -> bool:
        return self.tools is not None and self.tools.forced

    def _sorted(self, delta: DeltaMessage) -> Said:
        """A piece's thoughts in their tags, its text, and its calls."""
        text, content = "", delta.content or ""
        if delta.reasoning:
            text = ("" if self._thinking else OPEN_THOUGHT) + _without_tags(delta.reasoning)
            self._thinking = True
        calls = [_piece(call) for call in delta.tool_calls or ()]
        if content and self._is_forced:
            calls, content = self._forced_pieces(content), ""
        if self._thinking and (content or calls):
            text, self._thinking = text + CLOSE_THOUGHT, False
        return Said(text + content, self._allowed(calls))

    def _forced(self, content: str) -> list[FunctionCall]:
        """The calls of a completion that its grammar has bound to be calls; none where tokens ran out."""
        if self.tools is not None and self.tools.named is not None:
            return [FunctionCall(name=self.tools.named, arguments=content)] if content.strip() else []
        try:
            calls = _CALLS.validate_json(content)
        except ValidationError:
            return []
        return [FunctionCall(name=call.name, arguments=_json(call.parameters)) for call in calls]

    def _forced_pieces(self, content: str) -> list[dict[str, Any]]:
        before, self._json = self._json, self._json + content
        if self.tools is not None and self.tools.named is not None:
            named = {"name": self.tools.named, "arguments": content}
            if before:
                return [{"index": 0, "function": {"arguments": content}}]
            return [{"index": 0, "id": make_tool_call_id(), "type": "function", "function": named}]
        delta, _ = extract_required_tool_call_streaming(
            previous_text=before, current_text=self._json, tool_call_idx=None, tool_call_id_type="random"
        )
        return [_piece(call) for call in delta.tool_calls] if delta is not None else []

    def _allowed(self, calls: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
        alone = self.tools is not None and not self.tools.parallel
        return tuple(call for call in calls if not alone or call["index"] == 0)


def _composed(tokenizer: Any, tool_parser: str | None, reasoning_parser: str | None) -> "type[Parser] | None":
    """vLLM's parser for both. Raises SettingsError naming the setting."""
    for setting, name, known in (
        ("tool_parser", tool_parser, ToolParserManager.list_registered()),
        ("reasoning_parser", reasoning_parser, ReasoningParserManager.list_registered()),
    ):
        if name is not None and name not in known:
            raise SettingsError(f"{setting}: {name!r} is none of vLLM's: {', '.join(known)}")
    try:
        composed: type[Parser] | None = ParserManager.get_parser(
            tool_parser, reasoning_parser, enable_auto_tools=True, tokenizer=tokenizer
        )
    except Exception as exc:  # parsers look for their tokens in many ways, and raise what they like
        named = " and ".join(
            f"{setting} {name!r}"
            for setting, name in (("tool_parser", tool_parser), ("reasoning_parser", reasoning_parser))
            if name is not None
        )
        raise SettingsError(f"{named}: {' '.join(str(exc).split())}") from exc
    return composed


def _request(tools: Tools | None) -> ChatCompletionRequest:
    """What vLLM's parsers want to know of a request."""
    offered = {} if tools is None else {"tools": [dict(tool) for tool in tools.offered], "tool_choice": "auto"}
    return ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": ""}], **offered})


def _piece(call: DeltaToolCall) -> dict[str, Any]:
    """OpenAI's piece of a call. The first one has id, type, name and arguments, though these may be empty."""
    function = {} if call.function is None else call.function.model_dump(exclude_none=True)
    if "name" not in function:
        return {"index": call.index, "function": {"arguments": function.get("arguments", "")}}
    name = {"name": function["name"], "arguments": function.get("arguments", "")}
    return {"index": call.index, "id": call.id or make_tool_call_id(), "type": "function", "function": name}


def _call(at: int, call: FunctionCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments or "{}"}
    return {"index": at, "id": call.id or make_tool_call_id(), "type": "function", "function": function}


def _json(arguments: Any) -> str:
    return json.dumps(arguments or {}, ensure_ascii=False)


def _without_tags(thoughts: str) -> str:
    """Thoughts that cannot end themselves: a family with tags of its own may spell ours."""
    return thoughts.replace(CLOSE_THOUGHT, "")
