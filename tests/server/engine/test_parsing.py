"""vLLM's own parsers on what each family of models writes: whole, and token by token, which must give the same call."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from slhf_server.engine.completion import Said
from slhf_server.engine.parsing import OutputParsers, detected_tool_parser
from slhf_server.engine.template_options import template_options
from slhf_server.models.base import SamplingParams
from slhf_server.models.tools import Tools
from slhf_server.settings.problem import SettingsError
from tests.engine.tiny import QWEN
from tests.zoo import byte_level, ordinary, special

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOLS = tuple({"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("weather", "trip"))
WANTED = {"city": 'Rome, "Italy" \u00e9 </s>', "days": 2}
ARGUMENTS = json.dumps(WANTED, ensure_ascii=False)
TAGS = ordinary("<tool_call>", "</tool_call>")
MARKS = ("calls▁begin", "call▁begin", "call▁end", "calls▁end", "sep")
DEEP = ordinary(*(f"<｜tool▁{mark}｜>" for mark in MARKS))


@dataclass(frozen=True)
class Family:
    parser: str
    written: str
    """What the family's models write for the call."""
    tokens: Sequence[AddedToken] = ()
    arguments: Mapping[str, Any] = field(default_factory=lambda: WANTED)
    before: str = ""
    """Text that stands before the call."""

    def tokenizer(self) -> Any:
        return PreTrainedTokenizerFast(tokenizer_object=byte_level([*special("<|end|>"), *self.tokens]))


HERMES = f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
FAMILIES = {
    "Qwen 2.5 and 3": Family("hermes", f"Let me look.\n{HERMES}", TAGS, before="Let me look.\n"),
    "Hermes, whose tags are no tokens": Family("hermes", HERMES),
    "Qwen 3 Coder": Family(
        "qwen3_coder",
        "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
        "</function>\n</tool_call>",
        TAGS,
        {"city": "Rome", "days": 2},
    ),
    "Llama 3": Family(
        "llama3_json", f'{{"name": "weather", "parameters": {ARGUMENTS}}}', special("<|python_tag|>", "<|eot_id|>")
    ),
    "Mistral to 0.3": Family(
        "mistral", f'[TOOL_CALLS] [{{"name": "weather", "arguments": {ARGUMENTS}}}]', special("[TOOL_CALLS]")
    ),
    "Mistral from v11": Family("mistral", f"[TOOL_CALLS]weather[ARGS]{ARGUMENTS}", special("[TOOL_CALLS]", "[ARGS]")),
    "DeepSeek V3": Family(
        "deepseek_v3",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n"
        f"```json\n{ARGUMENTS}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        DEEP,
    ),
    "DeepSeek V3.1": Family(
        "deepseek_v31",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>"
        f"{ARGUMENTS}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        DEEP,
    ),
    "Granite 3": Family(
        "granite", f'<|tool_call|>[{{"name": "weather", "arguments": {ARGUMENTS}}}]', special("<|tool_call|>")
    ),
    "Granite 4": Family("granite4", HERMES, TAGS),
}


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text that each token completes; a part of a character completes none."""
    said, shown = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], skip_special_tokens=False)
        said.append("" if text.endswith("\ufffd") else text.removeprefix(shown))
        shown = shown if text.endswith("\ufffd") else text
    return said


def read(parsers: OutputParsers, tokenizer: Any, text: str, tools: Tools | None = None) -> tuple[Said, list[Said]]:
    """What is read of the whole text, and of its tokens one by one."""
    sampling = SamplingParams(tools=tools)
    ids = tokenizer.encode(text, add_special_tokens=False)
    whole, streamed = (parsers.reading(sampling, [0]) for _ in range(2))
    assert whole is not None
    assert streamed is not None
    found = [streamed.piece(piece, [i], finished=False) for piece, i in zip(pieces(tokenizer, ids), ids, strict=True)]
    return whole.whole(text, ids), [*found, streamed.piece("", [], finished=True)]


def grown(said: Sequence[Said]) -> list[tuple[str, str]]:
    """Name and arguments of each call that the pieces make up; ids and types come with the names."""
    calls: dict[int, tuple[str, str]] = {}
    for piece in (call for one in said for call in one.calls):
        name, arguments = calls.get(piece["index"], ("", ""))
        function = piece["function"]
        assert ("name" in function) == bool(piece.get("id")) == (piece.get("type") == "function")
        calls[piece["index"]] = name + function.get("name", ""), arguments + function["arguments"]
    return [calls[index] for index in sorted(calls)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_call_is_the_same_whole_and_token_by_token(name: str) -> None:
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    whole, streamed = read(OutputParsers(tokenizer, family.parser), tokenizer, family.written, Tools(TOOLS))
    ((called, arguments),) = grown([whole])
    assert (called, json.loads(arguments)) == ("weather", family.arguments)
    ((called, arguments),) = grown(streamed)
    assert (called, json.loads(arguments)) == ("weather", family.arguments)
    for text in (whole.text, "".join(one.text for one in streamed)):
        assert text.strip() == family.before.strip()


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_in_words_stays_what_it_is(name: str) -> None:
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    text = 'In Rome: sun, and 2 < 3. {"a": "b"} are braces.'
    whole, streamed = read(OutputParsers(tokenizer, family.parser), tokenizer, text, Tools(TOOLS))
    assert (whole.text, whole.calls) == (text, ())
    assert ("".join(one.text for one in streamed), grown(streamed)) == (text, [])


TWICE = f'{HERMES}\n<tool_call>\n{{"name": "trip", "arguments": {{"city": "Bonn"}}}}\n</tool_call>'


@pytest.mark.parametrize(("parallel", "names"), [(True, ["weather", "trip"]), (False, ["weather"])])
def test_several_calls_of_one_turn_are_read_unless_one_is_all_that_is_wanted(parallel: bool, names: list[str]) -> None:
    tokenizer = FAMILIES["Qwen 2.5 and 3"].tokenizer()
    whole, streamed = read(OutputParsers(tokenizer, "hermes"), tokenizer, TWICE, Tools(TOOLS, parallel=parallel))
    for said in ([whole], streamed):
        assert [name for name, _ in grown(said)] == names


@pytest.mark.parametrize("reasoning", [None, "qwen3"])
@pytest.mark.parametrize("family", ["Llama 3", "Granite 3", "Mistral from v11"])
def test_a_demanded_call_is_json_whatever_the_family(family: str, reasoning: str | None) -> None:
    made = FAMILIES[family]
    tokens = [*made.tokens, *ordinary("<think>", "</think>", "<tool_call>", "</tool_call>")]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(tokens))
    parsers = OutputParsers(tokenizer, made.parser, reasoning)
    thoughts = "<think>hm</think>" if reasoning else ""
    for written, tools in (
        (ARGUMENTS, Tools(TOOLS, named="weather")),
        (f'[{{"name": "weather", "parameters": {ARGUMENTS}}}]', Tools(TOOLS, required=True)),
    ):
        whole, streamed = read(parsers, tokenizer, thoughts + written, tools)
        for said in ([whole], streamed):
            ((name, arguments),) = grown(said)
            assert (name, json.loads(arguments)) == ("weather", WANTED)
            assert "".join(one.text for one in said) == thoughts


THOUGHTS = {
    "qwen3": ("<think>\nhm, 2 < 3\n</think>\n\nIt is 4.", ordinary("<think>", "</think>")),
    "deepseek_r1": ("<think>hm, 2 < 3</think>It is 4.", ordinary("<think>", "</think>")),
    "seed_oss": ("<seed:think>hm, 2 < 3</seed:think>It is 4.", ordinary("<seed:think>", "</seed:think>")),
    "mistral": ("[THINK]hm, 2 < 3[/THINK]It is 4.", special("[THINK]", "[/THINK]")),
}


@pytest.mark.parametrize("parser", THOUGHTS)
def test_thoughts_of_every_family_stand_in_one_pair_of_tags(parser: str) -> None:
    text, tokens = THOUGHTS[parser]
    tags = ordinary("<tool_call>", "</tool_call>", "<seed:tool_call>", "</seed:tool_call>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level([*special("[TOOL_CALLS]"), *tokens, *tags]))
    whole, streamed = read(OutputParsers(tokenizer, reasoning_parser=parser), tokenizer, text)
    for said in (whole.text, "".join(one.text for one in streamed)):
        thoughts, _, answer = said.removeprefix("<think>").partition("</think>")
        assert (thoughts.strip(), answer.strip()) == ("hm, 2 < 3", "It is 4.")
        assert said.startswith("<think>")


def test_thoughts_that_tokens_cut_short_are_not_closed() -> None:
    text, tokens = THOUGHTS["qwen3"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level([*tokens, *TAGS]))
    cut = text[: text.index("\n</think>")]
    whole, streamed = read(OutputParsers(tokenizer, reasoning_parser="qwen3"), tokenizer, cut)
    for said in (whole.text, "".join(one.text for one in streamed)):
        assert said.startswith("<think>")
        assert "</think>" not in said


TEMPLATES = {
    "hermes": QWEN,
    "qwen3_coder": "<tool_call>\n<function=example>",
    "llama3_json": "<|start_header_id|> ... '{\"name\": \"' + name + '\", ' '\"parameters\": '",
    "mistral": "[AVAILABLE_TOOLS] {{ tools }} [TOOL_CALLS]",
    "deepseek_v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ name }}\n```json\n",
    "deepseek_v31": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{{ name }}<｜tool▁sep｜>",
    "granite": "<|start_of_role|>tools ... <|tool_call|>",
    "granite4": "<|start_of_role|>tools ... <tool_call>",
    None: "{% for m in messages %}{{ m.content }}{% endfor %}",
}


@pytest.mark.parametrize("parser", TEMPLATES)
def test_the_template_tells_the_familys_parser(parser: str | None) -> None:
    assert detected_tool_parser(TEMPLATES[parser]) == parser


def test_a_parser_that_vllm_lacks_or_that_misses_its_tokens_is_named() -> None:
    tokenizer = FAMILIES["Qwen 2.5 and 3"].tokenizer()
    with pytest.raises(SettingsError, match=r"tool_parser: 'nobodys' is none of vLLM's: .*hermes"):
        OutputParsers(tokenizer, "nobodys")
    with pytest.raises(SettingsError, match=r"reasoning_parser: 'nobodys' is none of vLLM's: .*qwen3"):
        OutputParsers(tokenizer, None, "nobodys")
    with pytest.raises(SettingsError, match="tool_parser 'llama3_json': "):
        OutputParsers(tokenizer, "llama3_json")


def test_variables_that_a_request_may_set_are_those_that_only_the_template_reads() -> None:
    assert template_options(QWEN) == {"enable_thinking"}
    assert template_options("{{ bos_token }}{% generation %}{{ date_string }}{% endgeneration %}") == {"date_string"}
