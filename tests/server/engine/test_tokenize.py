"""Tokens as `/tokenize` shows them, of the zoo's families: transformers' own ids, and vLLM's options."""

from typing import Any

import pytest

from slhf_server.errors import ContextLengthExceeded, UnknownToken
from slhf_server.models.base import Turn
from tests.server.engine.test_templates import chats, encoder, families, untouched
from tests.zoo import FAMILIES

MOST = 10_000
TEXTS = ["", "Hello you", "  two  spaces\n", "caf\u00e9 1,234.5"]


def messages(name: str, turns: list[Turn]) -> list[dict[str, Any]]:
    parts = FAMILIES[name].takes_parts
    return [{"role": t.role, "content": [{"type": "text", "text": t.text}] if parts else t.text} for t in turns]


@families
@pytest.mark.parametrize("prompted", [True, False])
def test_a_chats_ids_are_those_of_apply_chat_template(name: str, prompted: bool) -> None:
    for turns in chats(FAMILIES[name], "Hello you", "It is 4.", "And now?"):
        apply = untouched(name).apply_chat_template
        expected = apply(messages(name, turns), add_generation_prompt=prompted, return_dict=False)
        assert encoder(name).chat_ids(turns, MOST, generation_prompt=prompted) == list(expected)
        assert not prompted or encoder(name).count(turns, MOST) == len(expected)


@families
def test_the_tokenizers_own_tokens_come_on_top_where_they_are_asked_for(name: str) -> None:
    """vLLM renders the chat and encodes the text with them."""
    for turns in chats(FAMILIES[name], "Hello you", "It is 4.", "And now?"):
        apply = untouched(name).apply_chat_template
        text = apply(messages(name, turns), add_generation_prompt=True, tokenize=False)
        expected = untouched(name)(text, add_special_tokens=True)["input_ids"]
        assert encoder(name).chat_ids(turns, MOST, special_tokens=True) == list(expected)


@families
@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_a_texts_ids_and_their_spelling_are_those_of_transformers(name: str, text: str, special: bool) -> None:
    tokenizer = untouched(name)
    ids = encoder(name).text_ids(text, MOST, special_tokens=special)
    assert ids == tokenizer(text, add_special_tokens=special)["input_ids"]
    assert encoder(name).tokens(ids) == tokenizer.convert_ids_to_tokens(ids)
    assert encoder(name).text(ids) == tokenizer.decode(ids)


@families
def test_more_tokens_than_fit_are_refused_and_a_whole_chats_are_counted(name: str) -> None:
    turns = [Turn("user", "one two three"), Turn("assistant", "one two three"), Turn("user", "one two three")]
    most = len(encoder(name).chat_ids(turns, MOST)) - 1
    with pytest.raises(ContextLengthExceeded):
        encoder(name).chat_ids(turns, most)
    assert encoder(name).count(turns, most) == most + 1
    with pytest.raises(ContextLengthExceeded):
        encoder(name).text_ids("one two three " * 50, 20, special_tokens=False)


@families
def test_an_id_of_no_token_is_named(name: str) -> None:
    ids = encoder(name).text_ids("Hello", MOST, special_tokens=False)
    with pytest.raises(UnknownToken) as caught:
        encoder(name).text([*ids, 2**30])
    assert caught.value.param == f"tokens.{len(ids)}"
