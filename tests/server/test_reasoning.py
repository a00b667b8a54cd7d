"""Thoughts are taken out of texts, whole or in pieces, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slhf_server.fake import FakeEngine
from slhf_server.job import Deltas, Player
from slhf_server.model import Sampling
from slhf_server.reasoning import Thoughts, without_thoughts
from tests.server.test_refinement import outcome, play

TEXTS = [
    ("<think>because</think>\n\nThe answer.", "The answer."),
    (" \n<think>\na\nb</think>The answer.", "The answer."),
    ("<think>one</think><think>two</think> The answer.", "The answer."),
    ("<think></think>x", "x"),
    ("The answer.", "The answer."),
    ("  The answer.\n", "  The answer.\n"),
    ("<thinker> is a word", "<thinker> is a word"),
    ("Write <think>a</think> in your text.", "Write <think>a</think> in your text."),
    ("<think>never closed", ""),
    ("<think>almost closed</think", ""),
    ("<thin", "<thin"),
    ("", ""),
    (" ", " "),
]


@pytest.mark.parametrize(("text", "visible"), TEXTS)
def test_a_whole_text_loses_the_thoughts_it_begins_with(text: str, visible: str) -> None:
    assert without_thoughts(text) == visible


@pytest.mark.parametrize("answer", ["The answer.", "One <think> is a tag."])
def test_a_closing_tag_that_comes_first_ends_thoughts_that_the_prompt_began(answer: str) -> None:
    assert without_thoughts(f"because\n</think>\n\n{answer}") == answer


def test_an_answer_that_speaks_of_a_closing_tag_after_its_thoughts_is_kept_whole() -> None:
    answer = "The tag </think> ends thoughts."
    assert outcome(FakeEngine(lambda turns: f"<think>hm</think>{answer}"), rounds=1).text == answer


@pytest.mark.parametrize("deltas", ["none", "all"])
@pytest.mark.parametrize("said", ["<think>hm so</think> the answer", "hm so</think> the answer", " the answer"])
def test_logprobs_are_those_of_the_text_alone(said: str, deltas: Deltas) -> None:
    engine = FakeEngine(lambda turns: said)
    leader = Player("leader", engine.leader, Sampling(logprobs=0))
    result = outcome(engine, rounds=0, endpoint="refine", leader=leader, deltas=deltas)
    assert "".join(one.token for one in result.logprobs).split() == ["the", "answer"] == result.text.split()


@given(text=st.sampled_from([text for text, _ in TEXTS]), cuts=st.lists(st.integers(0, 50), max_size=8))
def test_however_a_text_is_cut_the_pieces_show_the_same(text: str, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    thoughts = Thoughts()
    shown = [thoughts.visible(text[a:b]) for a, b in zip(places, places[1:], strict=False)]
    assert "".join(shown) + thoughts.rest() == without_thoughts(text)


def test_a_text_without_thoughts_is_held_back_by_no_more_than_its_first_piece() -> None:
    thoughts = Thoughts()
    assert [thoughts.visible(piece) for piece in ("The", " answer", ".")] == ["The", " answer", "."]


def test_the_follower_never_sees_a_drafts_thoughts() -> None:
    engine = FakeEngine(lambda turns: "<think>hm, let me see</think>\n\nthe answer")
    result = outcome(engine, rounds=2)
    for turns, _ in engine.follower.calls:
        assert turns[-2].text == "the answer"
    assert [finished.text for finished in result.refinement.rounds] == ["the answer"] * 3


def test_a_clients_draft_loses_its_thoughts_through_the_stream_too() -> None:
    engine = FakeEngine(lambda turns: "<think>hm</think> better")
    steps = play(engine, deltas="all", draft="d")
    assert "hm" not in "".join(getattr(step, "delta", "") for step in steps)


def test_thoughts_that_never_end_leave_an_empty_text_and_their_tokens_count() -> None:
    result = outcome(FakeEngine(lambda turns: "<think>on and on and on"), rounds=0)
    assert (result.text, result.usage.completion_tokens) == ("", 5)
