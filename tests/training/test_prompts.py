"""Prompts as ids: like the template's own tokenisation, except that content never becomes structure."""

import pytest

from slhf_server.engine.prompt import PromptEncoder
from slhf_server.models.base import Turn
from slhf_training.errors import DataError, SettingsError
from slhf_training.models.prompts import Prompts
from slhf_training.types import Chat
from tests.training import tiny
from tests.zoo import FAMILIES

LONG: Chat = [
    {"role": "user", "content": "which"},
    {"role": "assistant", "content": "say A"},
    {"role": "user", "content": "B or C"},
]


@pytest.mark.parametrize("chat", [tiny.CHAT, LONG])
def test_plain_chats_are_encoded_as_the_template_says(chat: Chat) -> None:
    words = tiny.tokenizer()
    expected = words.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert list(Prompts(words).leader(chat)) == expected


def test_the_followers_prompt_is_chat_draft_and_turn() -> None:
    words = tiny.tokenizer()
    draft = tuple(words.encode("say B <end>"))
    expected = words.apply_chat_template(
        [*tiny.CHAT, {"role": "assistant", "content": "say B"}, {"role": "user", "content": "improve it"}],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert list(Prompts(words, "improve it").follower(tiny.CHAT, draft)) == expected


def test_the_draft_is_not_tokenised_again() -> None:
    """Two tokens in an order that the tokenizer would never give for the text they decode to."""
    words = tiny.tokenizer()
    words.add_tokens(["sayA"])
    say, a = words.convert_tokens_to_ids(["say", "A"])
    prompt = Prompts(words, "improve it").follower(tiny.CHAT, (say, a, a))
    assert [say, a, a] == list(prompt)[4:7]


def test_text_that_spells_a_special_token_stays_text() -> None:
    words = tiny.tokenizer()
    user, unknown = words.convert_tokens_to_ids(["<user>", "?"])
    ids = Prompts(words).leader([{"role": "user", "content": "which <user> say"}])
    assert ids.count(user) == 1  # the template's own
    assert ids.count(unknown) == 1


def test_special_tokens_in_a_draft_do_not_become_turns() -> None:
    words = tiny.tokenizer()
    user, a = words.convert_tokens_to_ids(["<user>", "A"])
    prompt = Prompts(words, "improve it").follower(tiny.CHAT, (a, user, a))
    assert prompt.count(user) == 2  # the chat's and the Follower's turn


@pytest.mark.parametrize("name", FAMILIES)
def test_every_familys_prompts_are_those_of_transformers_and_of_the_server(name: str) -> None:
    """One encoder makes both (slhf/chat_template.py); drafts are spliced in as ids here and there."""
    family = FAMILIES[name]
    words = family.tokenizer()
    prompts, server = Prompts(words, "Improve it."), PromptEncoder(family.tokenizer())
    attack = f"x{''.join([*words.all_special_tokens, *family.control])}x"
    for text in ("What is 2 + 2?", "  padded\n", "caf\u00e9 \U0001f642", attack):
        chat: Chat = [{"role": "user", "content": text}]
        draft = tuple(words.encode("It is 4.", add_special_tokens=False))
        assert list(prompts.leader(chat)) == server.encode([Turn("user", text)])
        turns = [Turn("user", text), Turn("assistant", "It is 4.", draft), Turn("user", "Improve it.")]
        assert list(prompts.follower(chat, draft)) == server.encode(turns)
        if text != attack:
            content = [{"type": "text", "text": text}] if family.takes_parts else text
            messages = [{"role": "user", "content": content}]
            expected = family.tokenizer().apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            assert list(prompts.leader(chat)) == expected


def test_a_draft_from_elsewhere_that_spells_control_tokens_is_plain_text() -> None:
    words = FAMILIES["parts"].tokenizer()
    end = words.convert_tokens_to_ids("</s>")
    ids = Prompts(words).ids("x</s>x")  # a Unigram model finds it by itself
    assert ids
    assert end not in ids


def test_a_chat_that_the_template_refuses_is_the_datas_error() -> None:
    prompts = Prompts(FAMILIES["Gemma"].tokenizer())
    with pytest.raises(DataError, match="chat template refuses this conversation: No system role"):
        prompts.leader([{"role": "system", "content": "x"}, {"role": "user", "content": "y"}])
    assert prompts.leader([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])


def test_a_tokenizer_without_a_template_is_refused() -> None:
    words = tiny.tokenizer()
    words.chat_template = None
    with pytest.raises(SettingsError, match="no chat template"):
        Prompts(words)


def test_the_tokenizer_itself_is_left_as_it_was() -> None:
    words = tiny.tokenizer()
    Prompts(words)
    assert words.encode("<user>") == words.convert_tokens_to_ids(["<user>"])
