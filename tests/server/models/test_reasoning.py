"""Thoughts are taken out of texts, whole or in pieces, and nothing else is."""

import re
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slhf.history import Message
from slhf.wire import StopReason
from slhf_server.errors import ContextLengthExceeded, EngineFailed
from slhf_server.models.base import SamplingParams
from slhf_server.models.fake import FakeEngine, Said
from slhf_server.models.reasoning import ReasoningParser, is_blank, lone_thoughts, refinable, strip_reasoning
from slhf_server.refinement.conversation import as_text
from slhf_server.refinement.job import Deltas, RoleBinding
from slhf_server.refinement.stops.unchanged import unchanged
from tests.server.refinement.test_refinement import outcome, play

TEXTS = [
    ("<think>because</think>\n\nThe answer.", "The answer."),
    (" \n<think>\na\nb</think>The answer.", "The answer."),
    ("<think>one</think><think>two</think> The answer.", "The answer."),
    ("<think>one</think>\n\n <think>\u4f60</think>\t<think></think>The answer.", "The answer."),
    ("<think></think>x", "x"),
    ("<think><think></think>x", "x"),
    ("The answer.", "The answer."),
    ("  The answer.\n", "  The answer.\n"),
    ("<thinker> is a word", "<thinker> is a word"),
    ("Write <think>a</think> in your text.", "Write <think>a</think> in your text."),
    ("Put </think> at the end.", "Put </think> at the end."),
    ("</think>\n\nThe answer.", "</think>\n\nThe answer."),
    ("<think>a</think>b</think>c", "b</think>c"),
    ("<think>a</think>Use <think>b</think>.", "Use <think>b</think>."),
    ("<think>a</think>", ""),
    ("<think>a</think> \n", ""),
    ("<thin", "<thin"),
    ("", ""),
    (" ", " "),
]
UNCLOSED = ["<think>never closed", "<think>almost closed</think", "<think>one</think> <think>two", "<think>"]
MANY = 280_000  # blocks of 15 letters: 4 MiB


@pytest.mark.parametrize(("text", "visible"), TEXTS)
def test_a_text_loses_the_thoughts_it_begins_with_and_nothing_else(text: str, visible: str) -> None:
    assert strip_reasoning(text) == visible
    assert shown([text]) == visible


@pytest.mark.parametrize(
    ("text", "thoughts"),
    [
        ("<think>\na\n\nb\n</think>", "\na\n\nb\n"),
        (" \n<think>a</think>\n", "a"),
        ("<think></think>", ""),
        ("<think>a</think>b", None),
        ("b<think>a</think>", None),
        ("a", None),
        ("", None),
        *((text, None) for text in UNCLOSED),
    ],
)
def test_thoughts_are_read_where_they_are_all_of_a_text(text: str, thoughts: str | None) -> None:
    assert lone_thoughts(text) == thoughts


@pytest.mark.parametrize("text", UNCLOSED)
def test_thoughts_that_never_end_are_a_models_thoughts_and_somebody_elses_text(text: str) -> None:
    assert shown([text]) == ""
    assert strip_reasoning(text) == text.rpartition("</think> ")[2]


@pytest.mark.parametrize(
    "text",
    [
        "<think></think>" * MANY,
        "<think>a</think>\n" * MANY + "x",
        "<think>" * MANY,
        "<think>" + "<" * (4 << 20) + "</think>",
        " " * (4 << 20),
        "\u200b" * (4 << 20),
        "<think></think>" + "<think>x" * MANY,
    ],
    ids=["many blocks", "and a text", "nested", "one block", "spaces", "without width", "unclosed"],
)
def test_a_hostile_text_takes_time_in_proportion_to_its_length(text: str) -> None:
    """A quadratic way takes minutes for 4 MiB, and a recursive one fails. The bound is ten times what it takes."""
    begun = time.thread_time()
    assert len(refinable(text)) <= len(text)
    shown([text])
    shown([text[i : i + 40] for i in range(0, len(text) // 8, 40)])
    assert time.thread_time() - begun < 5


def shown(pieces: Sequence[str]) -> str:
    thoughts = ReasoningParser()
    return "".join([thoughts.visible(piece) for piece in pieces]) + thoughts.rest()


def test_an_answer_that_speaks_of_a_closing_tag_after_its_thoughts_is_kept_whole() -> None:
    answer = "The tag </think> ends thoughts."
    assert outcome(FakeEngine(lambda turns: f"<think>hm</think>{answer}"), rounds=1).text == answer


@pytest.mark.parametrize("deltas", ["none", "all"])
@pytest.mark.parametrize(
    "said",
    [
        "<think>hm so</think> the answer",
        "<think>a</think> <think>b c</think> \n the answer",
        " the answer",
        "the answer",
    ],
)
def test_logprobs_are_those_of_the_text_alone(said: str, deltas: Deltas) -> None:
    engine = FakeEngine(lambda turns: said)
    leader = RoleBinding("leader", engine.leader, SamplingParams(logprobs=0))
    result = outcome(engine, rounds=0, endpoint="refine", leader=leader, deltas=deltas)
    assert "".join(one.token for one in result.logprobs).split() == ["the", "answer"] == result.text.split()


@given(
    text=st.lists(st.sampled_from(["<think>", "</think>", "<", "th", "ink>", " ", "\n", "a", "\u200b"]), max_size=12),
    cuts=st.lists(st.integers(0, 60), max_size=12),
)
def test_however_a_text_is_cut_the_pieces_show_the_same(text: list[str], cuts: list[int]) -> None:
    whole = "".join(text)
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    assert shown([whole[a:b] for a, b in zip(places, places[1:], strict=False)]) == shown([whole])


@given(st.lists(st.sampled_from(["<think>", "</think>", "<", " ", "\n", "a"]), max_size=9).map("".join))
def test_nothing_is_left_to_take_out(text: str) -> None:
    assert strip_reasoning(strip_reasoning(text)) == strip_reasoning(text)
    assert shown([shown([text])]) in (shown([text]), "")  # of "<think>" cut off nothing is shown


@pytest.mark.parametrize(
    ("text", "blank"),
    [
        ("", True),
        (" \t\r\n\u3000\u2028", True),
        ("\u200b\ufeff\u2060\u00ad\u200e", True),
        ("\u00a0", True),
        (".", False),
        ("\u200b" * 100 + "a", False),
        ("\U0001f600", False),
        ("\u0301", False),
    ],
)
def test_a_text_is_blank_where_there_is_nothing_to_see(text: str, blank: bool) -> None:
    assert is_blank(text) == blank


def test_a_text_without_thoughts_is_held_back_by_no_more_than_its_first_piece() -> None:
    thoughts = ReasoningParser()
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


DRAFTS = [
    "<think>hm</think>\n\nmine",
    " \n<think>a</think><think>b</think> mine \n",
    "Put </think> at the end.",
    "Qwen ends its thoughts with </think> and then answers.",
    "<think>cut off",
    "<think>nothing else</think>\n",
    "<think></think>" * 1000,
    "  mine\n",
]


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize(
    ("follower", "rounds", "reason"),
    [
        ("  ", 1, "error"),
        (EngineFailed("boom"), 1, "error"),
        ("x", 0, "disabled"),
        ("w " * 99, 1, "token_budget"),
        (ContextLengthExceeded(9, 8), 2, "context_length"),
    ],
)
def test_a_clients_draft_comes_back_as_it_was_sent(draft: str, follower: Said, rounds: int, reason: StopReason) -> None:
    said = iter(["better", follower]) if reason == "context_length" else iter([follower])
    budget = 50 if reason == "token_budget" else 10_000
    result = outcome(FakeEngine(lambda turns: next(said)), draft=draft, rounds=rounds, max_total_tokens=budget)
    assert result.refinement.stop_reason == reason
    assert result.refinement.rounds[0].text == draft
    assert result.text == ("better" if reason == "context_length" else draft)


@pytest.mark.parametrize("draft", DRAFTS)
def test_the_follower_sees_a_draft_without_the_thoughts_it_begins_with(draft: str) -> None:
    engine = FakeEngine()
    outcome(engine, draft=draft, draft_thinks=True)
    seen = engine.follower.calls[0][0][-2].text
    thought_alone = not re.sub(r"(\s*<think>[^<]*</think>)*\s*", "", draft, count=1)
    assert seen == (draft if thought_alone else re.sub(r"^(\s*<think>[^<]*</think>)+\s*", "", draft))


def test_a_draft_of_a_model_that_does_not_think_is_seen_as_it_is() -> None:
    engine = FakeEngine()
    outcome(engine, draft="<think>hm</think> mine")
    assert engine.follower.calls[0][0][-2].text == "<think>hm</think> mine"


def test_a_draft_with_thoughts_that_the_follower_returns_is_unchanged() -> None:
    engine = FakeEngine(lambda turns: "mine")
    result = outcome(engine, draft="<think>hm</think> mine", rounds=5, stops=(unchanged,), draft_thinks=True)
    assert (result.refinement.stop_reason, result.refinement.rounds_run) == ("unchanged", 1)
    assert result.refinement.rounds[1].edit_ratio == 0


def test_a_literal_tag_in_a_models_text_stays() -> None:
    said = "Put </think> at the end, and <think> at the beginning."
    result = outcome(FakeEngine(lambda turns: said), rounds=2)
    assert [finished.text for finished in result.refinement.rounds] == [said] * 3


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("Use </think> to close.", "Use </think> to close."),
        ("<think>hm</think>\n\nb", "b"),
        ("<think></think>" * 1000 + "b", "b"),
        ("The tag <think>a</think> is one.", "The tag <think>a</think> is one."),
        ("<think>cut off", "<think>cut off"),
    ],
)
def test_history_loses_the_thoughts_it_begins_with_alone(said: str, read: str) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": said}, {"role": "user", "content": "c"}]
    assert as_text([Message.model_validate(turn) for turn in turns])[1].text == read


def test_what_a_client_says_itself_is_never_touched() -> None:
    said = "<think>Is this a tag?</think> Explain it."
    assert as_text([Message(role="system", content=said), Message(role="user", content=said)])[1].text == said
