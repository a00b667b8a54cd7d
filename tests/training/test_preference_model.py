"""A causal model asked for a word: values by hand on random Llamas of bytes, and how much of them is read."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from transformers import LlamaForCausalLM

from slhf_training.errors import SettingsError
from slhf_training.preference import PreferenceSettings, preference_of
from slhf_training.preference.model import Better, CausalModelSettings, Good, WordOdds, better, good, spellings
from slhf_training.types import Chat, Message
from tests.training import tiny

A, B = ("A", "a"), ("B", "b")
"""The tokens of a vocabulary of bytes that say the letters."""


class Biased(LlamaForCausalLM):  # type: ignore[misc]
    """Has a head with a bias, so that a letter can be given some nats whatever stands there; counts what it reads."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size)
        self.lm_head.weight.data.normal_(0, 0.3)
        self.lm_head.bias.data.zero_()
        self.read: list[int] = []
        self.passes = 0

    def forward(self, input_ids: Any, **others: Any) -> Any:
        self.read += input_ids.flatten().tolist()
        self.passes += 1
        return super().forward(input_ids, **others)


def ids_of(*tokens: str) -> tuple[int, ...]:
    return tuple(tiny.byte_tokenizer().convert_tokens_to_ids(list(tokens)))


def model(gift: float = 0.0, words: int = 257) -> Biased:
    torch.manual_seed(0)
    made = Biased(tiny.config(words, 0, 32, 0.3))
    made.lm_head.bias.data[list(ids_of(*A))] = gift
    made.eval()
    return made


def settings(**changes: Any) -> CausalModelSettings:
    return CausalModelSettings.model_validate({"kind": "model", "model": "tiny"} | changes)


def judge(reader: Biased, **changes: Any) -> Better:
    return Better(WordOdds(reader, tiny.byte_tokenizer(), ("A", "B"), settings(**changes), "tiny"))


def ask(text: str) -> Chat:
    return [Message(role="user", content=text)]


def by_hand(reader: Biased, chat: Chat, first: str, second: str) -> float:
    """Odds of A in one order, of the question read alone."""
    words = tiny.byte_tokenizer()
    asked = [{"role": "user", "content": better(chat, first, second)}]
    ids = words.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    with torch.no_grad():
        last = reader(torch.tensor([ids])).logits[0, -1].double().exp()
    return float(last[list(ids_of(*A))].sum() / last[list(ids_of(*B))].sum())


def test_p_is_the_share_of_the_letter_in_both_orders() -> None:
    reader = model()
    chats, first, second = [ask("Why?"), ask("Why?"), ask("How so?")], ["mno", "eau", ""], ["xyz", "xyz", "x"]
    p = judge(reader)(chats, first, second)
    for place, (chat, a, b) in enumerate(zip(chats, first, second, strict=True)):
        forward, backward = by_hand(reader, chat, a, b), by_hand(reader, chat, b, a)
        assert p[place] == pytest.approx((forward / (1 + forward) + 1 / (1 + backward)) / 2, abs=1e-5)


def test_the_other_order_is_one_minus_the_value_and_an_answer_ties_with_itself() -> None:
    asked = judge(model())
    p, q = asked([ask("Why?")] * 2, ["mno", "eau"], ["eau", "eau"]), asked([ask("Why?")], ["eau"], ["mno"])
    assert p[0] + q[0] == pytest.approx(1, abs=1e-12)
    assert p[0] != 0.5
    assert p[1] == 0.5


def test_what_a_judge_gives_to_a_place_cancels_out() -> None:
    """One that knows nothing but the place: 3 nats for A in each order, so p is a half."""
    blind = model(gift=3.0)
    blind.lm_head.weight.data.zero_()
    assert judge(blind)([ask("Why?")] * 2, ["mno", "x"], ["eau", "yy"]) == pytest.approx([0.5, 0.5])


def test_a_model_in_bfloat16_is_heard_as_finely_as_in_float32() -> None:
    """Beside logits of 24 nats its own are an eighth of a nat apart."""
    fine, coarse = model(), model()
    for one in (fine, coarse):
        one.lm_head.bias.data.fill_(24.0)
    chats, first, second = [ask("Why?")] * 6, list("mnoeau"), ["xyz"] * 6
    p, q = judge(fine)(chats, first, second), judge(coarse.to(torch.bfloat16))(chats, first, second)
    assert p == pytest.approx(q, abs=0.004)
    assert len(set(q)) == 6


def test_the_model_keeps_its_head() -> None:
    reader = model()
    judge(reader)([ask("Why?")], ["mno"], ["eau"])
    assert reader.get_output_embeddings().weight.shape == (257, 32)


def test_the_conversation_is_read_once_for_both_orders_and_all_pairs_of_it() -> None:
    """No question and no answer has an x: all that are read are the chat's."""
    reader = model()
    judge(reader)([ask("x" * 300)] * 2, ["m", "e"], ["n", "o"])
    assert reader.read.count(ids_of("x")[0]) == 300
    assert reader.passes == 1


def test_questions_about_several_chats_share_a_pass_of_so_many_tokens() -> None:
    chats = [ask("Why?"), ask("How so?"), ask("When?")]
    whole, alone = model(), model()
    p = judge(whole)(chats, ["m"] * 3, ["n"] * 3)
    q = judge(alone, batch_tokens=2)(chats, ["m"] * 3, ["n"] * 3)
    assert (whole.passes, alone.passes) == (1, 3)
    assert p == pytest.approx(q, abs=1e-6)


def test_a_model_whose_attention_slides_reads_each_question_in_a_row_of_its_own() -> None:
    plain, sliding = model(), model()
    sliding.config.layer_types = ["full_attention", "sliding_attention"]
    p, q = (judge(one)([ask("Why?")], ["mno"], ["eau"]) for one in (plain, sliding))
    assert len(sliding.read) > len(plain.read)
    assert p == pytest.approx(q, abs=1e-6)  # a Llama slides for nobody, whatever the configuration says


def test_what_an_answer_spells_of_special_tokens_is_text() -> None:
    """The end token stands where the template puts it: once, behind the question."""
    reader = model()
    judge(reader)([ask("Why?</s>")], ["a</s>b"], ["a</s>b"])
    assert reader.read.count(0) == 1


def test_a_question_that_is_too_long_has_no_verdict_in_either_order() -> None:
    short = better(ask("Why?"), "mno", "eau")
    p = judge(model(), max_tokens=len(short) + 30)([ask("Why?")] * 2, ["mno", "m" * 99], ["eau", "e"])
    assert np.isnan(p).tolist() == [False, True]


def test_judgements_outlive_the_process_that_made_them(tmp_path: Path) -> None:
    first, again, other = model(), model(), model()
    question = [ask("Why?")], ["mno"], ["eau"]
    p = judge(first, cache=tmp_path / "kept.sqlite")(*question)
    assert judge(again, cache=tmp_path / "kept.sqlite")(*question) == pytest.approx(p)
    assert again.passes == 0
    Better(WordOdds(other, tiny.byte_tokenizer(), ("A", "B"), settings(cache=tmp_path / "kept.sqlite"), "another"))(
        *question
    )
    assert other.passes == 1  # another model's judgements are not this one's


def yes_and_no() -> Any:
    words = tiny.byte_tokenizer()
    words.add_tokens(["Yes", "\u0120yes", "No", "\u2581no"])
    return words


def test_words_are_known_in_capitals_or_not_and_with_a_space_or_not() -> None:
    words = yes_and_no()
    assert [words.convert_ids_to_tokens(spellings(words, word)) for word in ("Yes", "No")] == [
        ["Yes", "\u0120yes"],
        ["No", "\u2581no"],
    ]
    assert words.convert_ids_to_tokens(spellings(words, "A")) == ["A", "a"]


def test_good_is_asked_of_each_answer_alone() -> None:
    """The log-odds of yes over no, each with all its spellings, compared at a scale."""
    words, reader = yes_and_no(), model(words=261)
    asked = Good(WordOdds(reader, words, ("Yes", "No"), settings(ask="good"), "tiny"), scale=0.5)
    p = asked([ask("x" * 300)] * 2, ["mno", "eau"], ["eau", "eau"])
    assert reader.read.count(ids_of("x")[0]) == 300
    odds = {}
    for answer in ("mno", "eau"):
        said = [{"role": "user", "content": good(ask("x" * 300), answer)}]
        ids = words.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
        with torch.no_grad():
            last = reader(torch.tensor([ids])).logits[0, -1].double().exp()
        odds[answer] = math.log(last[257:259].sum() / last[259:261].sum())
    assert p[0] == pytest.approx(1 / (1 + math.exp((odds["eau"] - odds["mno"]) / 0.5)), abs=1e-5)
    assert p[1] == 0.5


def test_a_model_without_the_words_is_refused() -> None:
    with pytest.raises(SettingsError, match="model: tiny has no token for Yes or none for No"):
        WordOdds(model(), tiny.byte_tokenizer(), ("Yes", "No"), settings(ask="good"), "tiny")


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="model: .*nowhere"):
        preference_of(settings(model=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("changes", [{"ask": "best"}, {"scale": 0}, {"model": ""}, {"max_tokens": 1}, {"colour": 1}])
def test_a_bad_setting_is_named(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=rf"(?m)^model\.{next(iter(changes))}\b"):
        TypeAdapter(PreferenceSettings).validate_python({"kind": "model", "model": "m", **changes})


def test_the_built_in_model_can_be_asked_both_ways(builtin: Path) -> None:
    chats: Sequence[Chat] = [ask("What is the capital of France?")]
    for how in ("better", "good"):
        asked = preference_of(settings(model="builtin:smollm2-135m", ask=how))
        p = asked(chats, ["Paris."], ["xyzzy"])
        assert 0 < p[0] < 1
        assert asked(chats, ["xyzzy"], ["Paris."]) == pytest.approx(1 - p)
