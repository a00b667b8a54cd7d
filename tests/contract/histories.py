"""Conversations as other servers and frameworks write them, each appended to a question as it is.

Every entry: the messages after the question, and the assistant's and the tools' texts that a model must read. Sources:
the answers and histories that the providers' and the libraries' own documentation and code show.
"""

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class History:
    messages: list[Json]
    """From the assistant's answer on; the next question follows."""
    texts: list[str]
    """What is read of them."""


def said(text: Any = "Rome.", **more: Any) -> Json:
    return {"role": "assistant", "content": text, **more}


def called(**call: Any) -> Json:
    return {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}} | call


def result(text: Any = "sunny", **more: Any) -> Json:
    return {"role": "tool", "tool_call_id": "c1", "content": text, **more}


CALL = 'Called weather with {"city": "Rome"}'
RESULT = "Result of weather:\nsunny"
CITATION = {"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 4, "title": "t", "url": "u"}}

HISTORIES: dict[str, History] = {
    "OpenAI": History(
        [said(refusal=None, annotations=[CITATION], audio=None, function_call=None, tool_calls=None)], ["Rome."]
    ),
    "OpenAI, refused": History([said(None, refusal="I cannot.", annotations=[])], ["I cannot."]),
    "OpenAI, a refusal part": History([said([{"type": "refusal", "refusal": "I cannot."}])], ["I cannot."]),
    "OpenAI, spoken": History(
        [said(None, refusal=None, audio={"id": "a", "data": "UklG", "expires_at": 1, "transcript": "Rome."})],
        ["Rome."],
    ),
    "OpenAI, parse()": History([said('{"city": "Rome"}', parsed={"city": "Rome"}, refusal=None)], ['{"city": "Rome"}']),
    "OpenAI, parse() of a tool": History(
        [
            said(
                None,
                parsed=None,
                tool_calls=[
                    called(
                        function={
                            "name": "weather",
                            "arguments": '{"city": "Rome"}',
                            "parsed_arguments": {"city": "Rome"},
                        }
                    )
                ],
            ),
            result(),
        ],
        [CALL, RESULT],
    ),
    "OpenAI, a custom tool": History(
        [
            said(None, tool_calls=[{"id": "c1", "type": "custom", "custom": {"name": "weather", "input": "in Rome"}}]),
            result(),
        ],
        ["Called weather with in Rome", RESULT],
    ),
    "OpenAI, functions": History(
        [
            said(None, function_call={"name": "weather", "arguments": '{"city": "Rome"}'}),
            {"role": "function", "name": "weather", "content": "sunny"},
        ],
        [CALL, RESULT],
    ),
    "OpenAI, no calls": History([said(tool_calls=[])], ["Rome."]),
    "OpenAI, a tool's result in parts": History(
        [said("", tool_calls=[called()]), result([{"type": "text", "text": "sunny"}])], [CALL, RESULT]
    ),
    "OpenAI, content left out": History([{"role": "assistant", "tool_calls": [called()]}, result()], [CALL, RESULT]),
    "Azure": History(
        [
            said(
                content_filter_results={"hate": {"filtered": False, "severity": "safe"}},
                context={"citations": [{"content": "c", "filepath": "f"}], "intent": "[]"},
                end_turn=True,
            )
        ],
        ["Rome."],
    ),
    "vLLM": History(
        [said(reasoning="hm", reasoning_content="hm", refusal=None, annotations=None, audio=None, tool_calls=[])],
        ["Rome."],
    ),
    "vLLM, a call": History(
        [said(None, reasoning=None, tool_calls=[called(id="chatcmpl-tool-1", index=0)]), result(tool_call_id="x")],
        [CALL, "Result of tool:\nsunny"],
    ),
    "OpenRouter": History(
        [
            said(
                reasoning="hm",
                reasoning_details=[{"type": "reasoning.encrypted", "data": "e", "id": "r", "index": 0}],
                images=[{"type": "image_url", "image_url": {"url": "data:"}}],
                native_finish_reason="stop",
            )
        ],
        ["Rome."],
    ),
    "Mistral": History(
        [
            said(
                [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "closed": True},
                    {"type": "text", "text": "Rome."},
                    {"type": "reference", "reference_ids": [1]},
                ],
                prefix=False,
                tool_calls=None,
            )
        ],
        ["Rome."],
    ),
    "Mistral, a tool": History(
        [
            said("", prefix=False, tool_calls=[called(type=None, index=0)]),
            result(name="weather"),
        ],
        [CALL, RESULT],
    ),
    "DeepSeek": History([said(reasoning_content="hm", prefix=True)], ["Rome."]),
    "DeepSeek, thoughts alone": History([said("", reasoning_content="hm")], [""]),
    "Anthropic": History(
        [
            said(
                [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "redacted_thinking", "data": "d"},
                    {"type": "text", "text": "Rome.", "citations": None, "cache_control": {"type": "ephemeral"}},
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}},
                    {"type": "server_tool_use", "id": "c2", "name": "web_search", "input": {}},
                    {"type": "web_search_tool_result", "tool_use_id": "c2", "content": [{"type": "web_search_result"}]},
                ]
            )
        ],
        ["Rome."],
    ),
    "Bedrock": History([said([{"reasoningContent": {"reasoningText": {"text": "hm"}}}, {"text": "Rome."}])], ["Rome."]),
    "Gemini": History(
        [
            said(
                None,
                extra_content={"google": {"thought": True}},
                tool_calls=[called(extra_content={"google": {"thought_signature": "s"}})],
            ),
            result(name="weather"),
        ],
        [CALL, RESULT],
    ),
    "LiteLLM": History(
        [
            said(
                provider_specific_fields={"citations": None, "thinking_blocks": [{"type": "thinking"}]},
                thinking_blocks=[{"type": "thinking", "thinking": "hm", "signature": "s"}],
                reasoning_content="hm",
                images=[],
                function_call=None,
                tool_calls=None,
            )
        ],
        ["Rome."],
    ),
    "LangChain": History(
        [
            said(
                [
                    {"type": "text", "text": "Rome.", "index": 0, "annotations": []},
                    {"type": "reasoning", "summary": []},
                ],
                name="agent",
                id="run--1",
                additional_kwargs={},
                response_metadata={"finish_reason": "stop"},
                usage_metadata=None,
                invalid_tool_calls=[],
            )
        ],
        ["Rome."],
    ),
    "LangChain, strings as parts": History([said(["Ro", {"type": "text", "text": "me."}])], ["Ro\nme."]),
    "LangChain, arguments as an object": History(
        [
            said("", tool_calls=[called(function={"name": "weather", "arguments": {"city": "Rome"}})]),
            result(name="weather", status="success", artifact=None),
        ],
        [CALL, RESULT],
    ),
    "Ollama": History(
        [
            said(
                "",
                thinking="hm",
                tool_calls=[{"function": {"name": "weather", "arguments": {"city": "Rome"}, "index": 0}}],
            ),
            {"role": "tool", "tool_name": "weather", "content": "sunny"},
        ],
        [CALL, RESULT],
    ),
    "Groq": History(
        [said(reasoning="hm", executed_tools=[{"index": 0, "type": "search", "arguments": "{}", "output": "o"}])],
        ["Rome."],
    ),
    "xAI": History([said(reasoning_content="hm", refusal=None, citations=["u"])], ["Rome."]),
    "Cohere": History([said(tool_plan="I will look.", citations=[{"start": 0, "end": 4}])], ["Rome."]),
    "Moonshot": History(
        [said("", reasoning_content="hm", tool_calls=[called(type="builtin_function")]), result(name="weather")],
        [CALL, RESULT],
    ),
    "no arguments": History(
        [said(None, tool_calls=[called(function={"name": "weather", "arguments": None})]), result(None)],
        ["Called weather with {}", "Result of weather:\n"],
    ),
    "a web page's own keys": History(
        [said(id="msg_1", createdAt=1.5, model="m", info={"usage": None}, experimental_attachments=[], parts=None)],
        ["Rome."],
    ),
    "no parts": History([said([])], [""]),
    "parts of nothing": History(
        [
            said(
                [
                    {"type": "text", "text": None},
                    {"type": "refusal", "refusal": None},
                    {"text": None},
                    {"text": "Rome."},
                ]
            )
        ],
        ["Rome."],
    ),
    "nothing": History([{"role": "assistant", "content": None, "refusal": None, "audio": None}], [""]),
}

ASKED: dict[str, Json] = {
    "Anthropic's cache": {
        "role": "user",
        "content": [{"type": "text", "text": "What is it?", "cache_control": {"type": "ephemeral"}}],
        "cache_control": {"type": "ephemeral"},
    },
    "an id and a name": {"role": "user", "content": "What is it?", "id": "u1", "name": None, "timestamp": 1},
    "weight": {"role": "user", "content": "What is it?", "weight": 0, "tool_calls": [], "tool_call_id": None},
    "the Responses API's part": {"role": "user", "content": [{"type": "input_text", "text": "What is it?"}]},
    "a part without a type": {"role": "user", "content": [{"text": "What is it?", "type": None}]},
    "a string as a part": {"role": "user", "content": ["What is it?"]},
}
"""Questions, each of which is read as "What is it?"."""
