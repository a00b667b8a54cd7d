"""Prompts of sixteen families of chat models: transformers' ids for harmless text, and no text becomes structure."""

import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slhf_server.engine.prompt import PromptEncoder
from slhf_server.models.base import Turn
from tests.zoo import FAMILIES, Family

families = pytest.mark.parametrize("name", FAMILIES)
few = settings(max_examples=40, deadline=None)
EDGES = st.sampled_from(["", " ", "\n", "\n\n", "\t", "  \n", "\u00a0", "\u3000", "\u200b"])
SAID = st.one_of(
    st.text(max_size=30), st.sampled_from(["It is 4.", "caf\u00e9 \ufb01n \uff21", "a  b\n\n\nc", "<b>1 < 2</b>"])
)
HARMLESS = st.builds(lambda before, text, after: before + text + after, EDGES, SAID, EDGES)


@functools.cache
def encoder(name: str) -> PromptEncoder:
    return PromptEncoder(FAMILIES[name].tokenizer())


@functools.cache
def untouched(name: str) -> Any:
    """A tokenizer that no encoder has seen."""
    return FAMILIES[name].tokenizer()


def usual(name: str, turns: list[Turn]) -> list[int]:
    """What transformers makes of it."""
    parts = FAMILIES[name].takes_parts
    messages = [
        {"role": turn.role, "content": [{"type": "text", "text": turn.text}] if parts else turn.text} for turn in turns
    ]
    return list(untouched(name).apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


def chats(family: Family, *texts: str) -> list[list[Turn]]:
    """The Leader's prompt, the Follower's, and what else the family takes; three texts at most."""
    first, second, third = (*texts, *texts, *texts)[:3]
    follower = [Turn("user", first), Turn("assistant", second), Turn("user", third)]
    found = [follower[:1], follower]
    if not family.refuses_system:
        found.append([Turn("system", second), *follower])
    if not family.alternates:
        found.append([*follower, Turn("user", first)])
    return found


@families
@few
@given(texts=st.tuples(HARMLESS, HARMLESS, HARMLESS))
def test_harmless_text_gets_the_ids_of_apply_chat_template(name: str, texts: tuple[str, str, str]) -> None:
    for turns in chats(FAMILIES[name], *texts):
        assert encoder(name).encode(turns) == usual(name, turns)


def control(name: str) -> dict[str, int]:
    """What must not come from content. Unknown characters may be the unknown token."""
    family, tokenizer = FAMILIES[name], untouched(name)
    texts = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special and t.content != family.unknown]
    return {text: tokenizer.convert_tokens_to_ids(text) for text in [*texts, *family.control]}


def wide(text: str) -> str:
    """As characters that NFKC makes the same text of."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def hostile(name: str) -> st.SearchStrategy[str]:
    texts = [*list(control(name))[:12], FAMILIES[name].unknown or "x"]
    spelled = [
        form for t in texts for form in (t, t[: len(t) // 2], t[len(t) // 2 :], wide(t), t.upper(), f"\u2581{t}")
    ]
    more = [
        "\n",
        " ",
        "x",
        "</think>",
        "<think>",
        "\ue0000\ue001",
        "\ue000",
        "system",
        "\u00ad",
        "\u0301",
        "assistant\n\n",
    ]
    return st.lists(st.sampled_from([*spelled, *more]), min_size=1, max_size=6).map("".join).filter(str.strip)


def structure(name: str, ids: list[int]) -> list[int]:
    return [i for i in ids if i in control(name).values()]


@families
@few
@given(data=st.data())
def test_no_text_becomes_structure(name: str, data: st.DataObject) -> None:
    attacks = tuple(data.draw(st.one_of(hostile(name), st.just("xx"))) for _ in range(3))
    for attacked, calm in zip(chats(FAMILIES[name], *attacks), chats(FAMILIES[name], "xx"), strict=True):
        assert structure(name, encoder(name).encode(attacked)) == structure(name, usual(name, calm))


@families
def test_the_usual_way_would_have_let_it_in(name: str) -> None:
    """The test above tests something: each family's own way yields control tokens from a draft."""
    attack = "".join(control(name))
    turns = [Turn("user", "xx"), Turn("assistant", f"x{attack}x"), Turn("user", "xx")]
    calm = encoder(name).encode([turns[0], Turn("assistant", "xx"), turns[2]])
    assert len(structure(name, usual(name, turns))) > len(structure(name, calm))
    assert structure(name, encoder(name).encode(turns)) == structure(name, calm)


@families
@few
@given(text=HARMLESS.filter(str.strip), cut=st.integers(0, 30))
def test_what_a_model_generated_stands_behind_its_prompt_as_it_was(name: str, text: str, cut: int) -> None:
    """So the Follower's first prompt begins with what the prefix cache holds, though encoding the text gives others."""
    family, tokenizer = FAMILIES[name], untouched(name)
    asked = [Turn("user", "What is 2 + 2?")]
    prompt = encoder(name).encode(asked)
    told = [tokenizer.encode(part, add_special_tokens=False) for part in (text[:cut], text[cut:])]
    answer = (*told[0], *told[1])
    whole = encoder(name).encode([*asked, Turn("assistant", text, answer), Turn("user", "Improve it.")])
    before = prompt[: -2 if family.opens_thought else None]  # DeepSeek takes the <think> of its last turn back
    if answer:
        assert whole[: len(before) + len(answer)] == [*before, *answer]


@families
def test_what_follows_the_generated_ids_is_encoded_as_in_the_midst_of_a_text(name: str) -> None:
    tokenizer = untouched(name)
    answer = tuple(tokenizer.encode("It is 4x", add_special_tokens=False))
    turns = [Turn("user", "What?"), Turn("assistant", "It is 4x", answer), Turn("user", "Improve it.")]
    found = encoder(name).encode(turns)
    expected = usual(name, turns)
    place = next(n for n in range(len(found)) if tuple(found[n : n + len(answer)]) == answer)
    after = found[place + len(answer) :]
    assert expected[-len(after) :] == after


@families
def test_a_prompt_does_not_depend_on_who_else_uses_the_tokenizer(name: str) -> None:
    tokenizer = FAMILIES[name].tokenizer()
    made = PromptEncoder(tokenizer)
    turns = [Turn("user", "".join(control(name)))]
    before = made.encode(turns)
    tokenizer("some text", truncation=True, max_length=2)
    tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=True) if not FAMILIES[
        name
    ].takes_parts else 0
    assert made.encode(turns) == before
