"""What becomes of each parameter of OpenAI's endpoints: the tables that the server enforces and docs/api.md shows.

`python -m slhf_server.api.openai.parameters chat` (or completions, responses) prints one as Markdown.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import PydanticCustomError

from slhf.wire import given

Support = Literal["used", "both", "engine", "leader", "upstream", "ignored", "rejected"]
_WORDING: dict[Support, str] = {
    "used": "used by the server",
    "both": "Leader and Follower",
    "engine": "Leader and Follower; 400 where an upstream leads",
    "leader": "the Leader; 400 beside a draft",
    "upstream": "an upstream Leader; 400 without one",
    "ignored": "ignored",
    "rejected": "400",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """What becomes of one parameter of an endpoint."""

    support: Support
    """How the server treats it (worded in `_WORDING`); `ignored` is deliberate."""
    note: str = ""
    neutral: tuple[Any, ...] = ()
    """Values that ask for nothing, accepted where the parameter is not; null always is."""
    moot: tuple[str, str] | None = None
    """Another parameter, and the value of it with which this one asks for nothing."""

    @property
    def wording(self) -> str:
        """What becomes of the parameter, in words."""
        return f"{_WORDING[self.support]}: {self.note}" if self.note else _WORDING[self.support]


_STATELESS = {
    "user": Parameter("ignored", "no per-user state is kept"),
    "safety_identifier": Parameter("ignored", "no per-user state is kept"),
    "metadata": Parameter("ignored", "nothing is stored"),
    "store": Parameter("ignored", "nothing is stored"),
    "service_tier": Parameter("ignored", "there is one tier"),
    "prompt_cache_key": Parameter("ignored", "the prefix cache needs no key"),
    "prompt_cache_options": Parameter("ignored", "the prefix cache has none"),
    "prompt_cache_retention": Parameter("ignored", "the prefix cache keeps what fits"),
    "moderation": Parameter("rejected", "the server judges no content"),
}
_FOREIGN = {
    "extra_body": Parameter("rejected", "its keys belong at the top level", ({},)),
    "request_id": Parameter("ignored", "X-Request-Id names a request"),
    "session_id": Parameter("ignored", "no session is kept"),
    "include_reasoning": Parameter("ignored", "thoughts are taken out of every answer"),
    "priority": Parameter("rejected", "there is one queue", (0,)),
    "cache_salt": Parameter("rejected", "the server decides who shares a prefix cache"),
    "return_token_ids": Parameter("rejected", "use logprobs", (False,)),
    "return_tokens_as_token_ids": Parameter("rejected", "use logprobs", (False,)),
    "prompt_logprobs": Parameter("rejected", "a prompt has none here"),
    "truncate_prompt_tokens": Parameter("rejected", "nothing is cut silently"),
    "use_beam_search": Parameter("rejected", "every round is sampled", (False,)),
    "length_penalty": Parameter("rejected", "every round is sampled", (1.0,)),
    "early_stopping": Parameter("rejected", "every round is sampled", (False,)),
    "spaces_between_special_tokens": Parameter("rejected", "not supported", (True,)),
    "add_special_tokens": Parameter("rejected", "the chat template adds them", (False,)),
    "kv_transfer_params": Parameter("rejected", "not supported"),
    "vllm_xargs": Parameter("rejected", "not supported", ({},)),
} | {
    name: Parameter("rejected", "use response_format (in the Responses API: text.format)", ({},))
    for name in (
        *("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"),
        *("guided_decoding_backend", "guided_whitespace_pattern"),
    )
}
"""Parameters that clients of vLLM and other servers send to any endpoint that generates."""
_UPSTREAMS = {
    "chat_template_kwargs": Parameter("leader", "vLLM; a bundle's Follower too, and 400 for unknown ones", ({},)),
    "documents": Parameter("upstream", "vLLM", ([],)),
    "mm_processor_kwargs": Parameter("upstream", "vLLM", ({},)),
    "media_io_kwargs": Parameter("upstream", "vLLM", ({},)),
    "thinking_token_budget": Parameter("upstream", "vLLM"),
    "reasoning": Parameter("upstream", "OpenRouter", ({}, {"effort": "none"}, {"enabled": False}, {"exclude": True})),
    "thinking": Parameter("upstream", "DeepSeek, Anthropic, GLM", ({}, {"type": "disabled"})),
    "enable_thinking": Parameter("upstream", "Qwen", (False,)),
    "thinking_budget": Parameter("upstream", "Qwen"),
    "provider": Parameter("upstream", "OpenRouter", ({},)),
    "models": Parameter("upstream", "OpenRouter", ([],)),
    "route": Parameter("upstream", "OpenRouter"),
    "transforms": Parameter("upstream", "OpenRouter", ([],)),
    "plugins": Parameter("upstream", "OpenRouter", ([],)),
    "safe_prompt": Parameter("upstream", "Mistral", (False,)),
}
"""Parameters of other servers beyond OpenAI's chat."""
_VLLM = {
    "top_k": Parameter("both", "vLLM"),
    "min_p": Parameter("both", "vLLM"),
    "min_tokens": Parameter("both", "vLLM"),
    "repetition_penalty": Parameter("both", "vLLM"),
    "ignore_eos": Parameter("both", "vLLM"),
    "bad_words": Parameter("both", "vLLM"),
    "include_stop_str_in_output": Parameter("both", "vLLM"),
    "skip_special_tokens": Parameter("both", "vLLM"),
    "logit_bias": Parameter("engine", "token ids are those of the bundle's tokenizer", ({},)),
    "stop_token_ids": Parameter("engine", "vLLM; as above", ([],)),
    "allowed_token_ids": Parameter("engine", "vLLM; as above"),
}
_SAMPLING = {
    "temperature": Parameter("both", "refine.temperature overrides it for the Follower"),
    "top_p": Parameter("both", "refine.top_p overrides it for the Follower"),
    "stop": Parameter("both"),
    "seed": Parameter("both"),
    "frequency_penalty": Parameter("both"),
    "presence_penalty": Parameter("both"),
}

CHAT: dict[str, Parameter] = {
    "model": Parameter("used", "one of GET /v1/models; without it, the default model"),
    "messages": Parameter("used"),
    "stream": Parameter("used"),
    "stream_options": Parameter("used", "include_usage; the usage so far is not told in every chunk"),
    "n": Parameter("used", "independent chains; each draws with seeds of its own"),
    "refine": Parameter("used", "the refinement itself"),
    **_SAMPLING,
    "max_tokens": Parameter("both", "per round; refine.max_tokens overrides it for the Follower"),
    "max_completion_tokens": Parameter("both", "newer name of max_tokens"),
    "response_format": Parameter("both", "a Follower's round that is not valid is discarded"),
    "logprobs": Parameter("both", "those of the returned round"),
    "top_logprobs": Parameter("both", "needs logprobs"),
    **_VLLM,
    "tools": Parameter("leader", "a turn that calls tools is returned as it is", ([],), ("tool_choice", "none")),
    "tool_choice": Parameter("leader", "a demanded call is a 400 where the Leader can call none", ("none", "auto")),
    "parallel_tool_calls": Parameter("leader", "false: at most one call", (True, False)),
    "reasoning_effort": Parameter("leader", "400 where the bundle's chat template does not know it", ("none",)),
    "verbosity": Parameter("upstream", "for the Follower, say it in refine.instruction", ("medium",)),
    **_UPSTREAMS,
    **_STATELESS,
    "usage": Parameter("ignored", "OpenRouter; every answer tells it, a stream with stream_options.include_usage"),
    **_FOREIGN,
    "add_generation_prompt": Parameter("rejected", "an answer is always due", (True,)),
    "continue_final_message": Parameter("rejected", "use refine.draft: an answer is not prefilled", (False,)),
    "chat_template": Parameter("rejected", "the model's own is used"),
    "echo": Parameter("rejected", "the prompt is a turn of a chat", (False,)),
    "best_of": Parameter("rejected", "use n", (1,)),
    "random_seed": Parameter("rejected", "use seed"),
    "functions": Parameter("rejected", "use tools", ([],), ("function_call", "none")),
    "function_call": Parameter("rejected", "use tool_choice", ("none", "auto")),
    "modalities": Parameter("rejected", "text is the only modality of an answer", (["text"],)),
    "audio": Parameter("rejected", "text is the only modality of an answer"),
    "prediction": Parameter("rejected", "use refine.draft: the draft itself is the prediction"),
    "web_search_options": Parameter("rejected", "the server searches nothing"),
}
OF_THE_ENGINE = tuple(name for name, parameter in CHAT.items() if parameter.support == "engine")

COMPLETIONS: dict[str, Parameter] = {
    "model": Parameter("used", "one of GET /v1/models; without it, the default model"),
    "prompt": Parameter("used", "becomes one user turn; a string, or a list of one"),
    "stream": Parameter("used"),
    "stream_options": Parameter("used", "include_usage"),
    "n": Parameter("used", "as in chat"),
    "refine": Parameter("used", "the refinement itself; without show_rounds"),
    **_SAMPLING,
    "max_tokens": Parameter("both", "per round; 16 unless given, as OpenAI has it"),
    "logprobs": Parameter("both", "how many of the likeliest tokens, as OpenAI has it here"),
    **_VLLM,
    "user": _STATELESS["user"],
    **_FOREIGN,
    "echo": Parameter("rejected", "the prompt is a turn of a chat", (False,)),
    "suffix": Parameter("rejected", "a chat model does not insert"),
    "best_of": Parameter("rejected", "use n", (1,)),
}

RESPONSES: dict[str, Parameter] = {
    "model": Parameter("used", "one of GET /v1/models; without it, the default model"),
    "input": Parameter("used", "a string, or messages, calls and results; see below"),
    "instructions": Parameter("used", "becomes the system turn"),
    "stream": Parameter("used"),
    "refine": Parameter("used", "the refinement itself; without show_rounds"),
    "temperature": _SAMPLING["temperature"],
    "top_p": _SAMPLING["top_p"],
    "max_output_tokens": Parameter("both", "per round; refine.max_tokens overrides it for the Follower"),
    "text": Parameter("both", "format: text, json_object or json_schema"),
    **_STATELESS,
    **_FOREIGN,
    "stream_options": Parameter(
        "rejected", "has nothing to choose here", ({}, {"include_obfuscation": False}, {"include_obfuscation": True})
    ),
    "truncation": Parameter("rejected", "nothing is cut silently", ("disabled",)),
    "tools": Parameter("rejected", "use chat completions", ([],), ("tool_choice", "none")),
    "tool_choice": Parameter("rejected", "use chat completions", ("none", "auto")),
    "parallel_tool_calls": Parameter("rejected", "use chat completions", (True, False)),
    "max_tool_calls": Parameter("rejected", "use chat completions"),
    "top_logprobs": Parameter("rejected", "use chat completions", (0,)),
    "include": Parameter("rejected", "there is nothing to include", ([],)),
    "reasoning": Parameter("rejected", "use chat completions", ({}, {"effort": "none"})),
    "previous_response_id": Parameter("rejected", "nothing is stored: send the conversation in input"),
    "conversation": Parameter("rejected", "nothing is stored: send the conversation in input"),
    "background": Parameter("rejected", "nothing is stored", (False,)),
    "background_options": Parameter("rejected", "nothing is stored"),
    "context_management": Parameter("rejected", "nothing is cut silently", ([],)),
    "prompt": Parameter("rejected", "there are no stored prompts"),
    "image": Parameter("rejected", "text is the only modality of an answer"),
    "access_programs": Parameter("rejected", "not supported"),
}


def filter_parameters(body: Any, table: Mapping[str, Parameter]) -> Any:
    """A request's body without what is ignored on purpose or asks for nothing.

    Raises PydanticCustomError for a parameter that is unknown or refused. A body that is no object is returned as it
    is, and pydantic refuses it.
    """
    if not isinstance(body, dict):
        return body
    return {name: value for name, value in given(body).items() if _is_kept(name, value, table.get(name), body)}


def _is_kept(name: str, value: Any, parameter: Parameter | None, body: Mapping[str, Any]) -> bool:
    if parameter is None:
        raise PydanticCustomError("unknown_parameter", "unknown parameter '{param}'", {"param": name})
    if parameter.support == "rejected" and not asks_for_nothing(parameter, value, body):
        raise PydanticCustomError("unsupported_parameter", "'{param}': {note}", {"param": name, "note": parameter.note})
    return parameter.support not in ("ignored", "rejected")


def asks_for_nothing(parameter: Parameter, value: Any, beside: Mapping[str, Any]) -> bool:
    """Whether a request with this value, beside those of other parameters, means the same as one without it."""
    if parameter.moot is not None and beside.get(parameter.moot[0]) == parameter.moot[1]:
        return True
    return value is None or any(_same(value, neutral) for neutral in parameter.neutral)


def _same(value: Any, neutral: Any) -> bool:
    """Whether they are equal, where null in an object means "not given" and true is not 1."""
    if isinstance(value, dict) and isinstance(neutral, dict):
        value = given(value)
        return value.keys() == neutral.keys() and all(_same(value[key], neutral[key]) for key in neutral)
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)


def document(table: Mapping[str, Parameter]) -> Callable[[dict[str, Any]], None]:
    """A request's `json_schema_extra`, which adds to the OpenAPI document what is passed on, ignored or refused."""

    def add(schema: dict[str, Any]) -> None:
        for name, parameter in table.items():
            if parameter.support in ("leader", "upstream", "ignored", "rejected"):
                closed = parameter.support == "rejected" and parameter.moot is None
                accepted = {"enum": [None, *parameter.neutral]} if closed else {}
                schema["properties"][name] = accepted | {"description": parameter.wording}

    return add


def rows(table: Mapping[str, Parameter]) -> Iterator[str]:
    """Yield a table's lines in Markdown."""
    yield "| parameter | what becomes of it | note | accepted nevertheless |"
    yield "|---|---|---|---|"
    for name, parameter in table.items():
        refused_somewhere = parameter.support in ("rejected", "leader", "upstream", "engine")
        neutral = (None, *parameter.neutral) if refused_somewhere else ()
        values = ", ".join(f"`{json.dumps(value)}`" for value in neutral)
        if parameter.moot is not None:
            values += f", any beside `{parameter.moot[0]}` `{json.dumps(parameter.moot[1])}`"
        yield f"| `{name}` | {_WORDING[parameter.support]} | {parameter.note} | {values} |"


if __name__ == "__main__":
    chosen = {"chat": CHAT, "completions": COMPLETIONS, "responses": RESPONSES}[sys.argv[1]]
    sys.stdout.writelines(f"{row}\n" for row in rows(chosen))
