"""Where the first own answers leave it open which result is right, further ones are written, and all are counted."""

import asyncio

import pytest

from slhf_server.errors import EngineFailed
from slhf_server.models.base import Chunk, SamplingParams
from slhf_server.models.comparing import ComparingFollower
from slhf_server.models.fake import Said
from tests.server.models.test_comparing import (
    ASKS,
    SAMPLING,
    TURNS,
    asked,
    chunks,
    cut,
    model,
    of,
    own_answers,
    read,
    text,
)

DRAFT = of("How many?", "That is 7.")
FIRST, FURTHER = ("So 8.", "It is 9.", "Hence 9."), ("I say 9.", "All in all 9.")


def follower(
    *own: Said, said: tuple[Said, ...], margin: int = 3, further: int = 2, room: int = 4096
) -> ComparingFollower:
    """The Leader says these one after the other, and so does the Follower: its first readings, and its further ones."""
    answers, readings = iter(own), iter(said)
    how = own_answers(3).model_copy(update={"margin": margin, "further": further})
    leader = model(lambda turns: next(answers), max_model_len=room)
    return ComparingFollower(leader, model(lambda turns: next(readings), max_model_len=room), how, TURNS[-1].text)


@pytest.mark.parametrize("deltas", [True, False])
@pytest.mark.parametrize(
    ("more", "chosen"),
    [
        (read("7", "9", "9"), "It is 9."),  # four give 9, none 7: the first of them
        (read("7", "9", "none"), "It is 9."),
        (read("7", "9", "7"), ""),
        (read("7", "7", "7"), ""),
        (read("7", "none", "none"), ""),
        (read("7", "9"), ""),  # not of both
        ("I say 9.", ""),
        ("<think>\nIt stays.\n</think>", ""),
    ],
)
def test_all_own_answers_are_counted_together(more: str, chosen: str, deltas: bool) -> None:
    first = read("7", "8", "9", "9")
    one = follower(*FIRST, "I say 9.", "It is 9, not 7.", said=(first, more))
    assert text(one, DRAFT, deltas=deltas) == first + chosen
    assert len(asked(one.leader)) == 5


@pytest.mark.parametrize(
    ("first", "chosen"),
    [
        (read("7", "9", "9", "9"), "I say 9."),  # enough of them
        (read("7", "7", "9", "7"), ""),
        (read("7", "7", "7", "7"), ""),
        (read("7", "none", "none", "none"), ""),
        (read("7", "9", "9"), ""),
        ("<think>\nIt stays.\n</think>", ""),
        ("Nine.", ""),
    ],
)
def test_where_nothing_is_open_none_are_written(first: str, chosen: str) -> None:
    one = follower("I say 9.", "It is 9, not 7.", "9 or 7.", said=(first,))
    assert text(one, DRAFT) == first + chosen
    assert len(asked(one.leader)) == 3
    assert len(asked(one.follower)) == 1


def test_a_bundle_that_wants_no_further_ones_gets_none() -> None:
    one = follower(*FIRST, said=(read("7", "8", "9", "9"),), further=0)
    assert text(one, DRAFT) == read("7", "8", "9", "9")
    assert len(asked(one.leader)) == 3


def test_another_result_may_come_to_lead() -> None:
    first = read("7", "8", "9", "none")
    one = follower("So 8.", "It is 9.", "Well.", *FURTHER, said=(first, read("7", "9", "9")))
    assert text(one, DRAFT) == f"{first}It is 9."


def test_they_have_noise_of_their_own_and_are_read_beside_the_draft_like_the_first() -> None:
    one = follower(*FIRST, *FURTHER, said=(read("7", "8", "9", "9"), read("7", "9", "9")))
    chunks(one, turns=DRAFT)
    assert len({sampling.seed for _, sampling in asked(one.leader)} | {SAMPLING.seed}) == 6
    assert len({sampling.max_tokens for _, sampling in asked(one.leader)}) == 1
    _, (turns, sampling) = asked(one.follower)
    assert list(turns[:-1]) == list(DRAFT[:-1])
    assert turns[-1].text == "Improve it.\n\nOther answers to the same request:\n\n[1]\nI say 9.\n\n[2]\nAll in all 9."
    assert (sampling.temperature, sampling.seed) == (SAMPLING.temperature, SAMPLING.seed)


def test_the_drafts_result_is_what_was_read_first() -> None:
    first = read("7", "8", "9", "9")
    one = follower(*FIRST, "So 7.", "So 7.", said=(first, read("8", "7", "7")))
    assert text(one, DRAFT) == first


def test_results_that_no_further_answer_has_count_for_nothing() -> None:
    first = read("7", "8", "9", "9")
    one = follower(*FIRST, "So 5.", "So 5.", said=(first, read("7", "9", "9")))
    assert text(one, DRAFT) == first


@pytest.mark.parametrize("deltas", [True, False])
def test_what_they_cost_is_a_part_of_the_rounds_thoughts(deltas: bool) -> None:
    """A token of the fake is a word."""
    first, more = read("7", "8", "9", "9"), read("7", "9", "9")
    one = follower(*FIRST, *FURTHER, said=(first, more))
    found = chunks(one, turns=DRAFT, deltas=deltas)
    own = sum(len(answer.split()) for answer in (*FIRST, *FURTHER))
    said = len(first.split(" ")) + len(more.split(" "))
    assert sum(chunk.completion_tokens for chunk in found) == own + said
    assert [chunk.finish_reason for chunk in found if chunk.finish_reason] == ["stop"]
    assert [chunk.reasoning_tokens for chunk in found[:-1]] == [0] * (len(found) - 1)
    assert found[-1].reasoning_tokens == own - len("It is 9.".split()) + len(more.split(" "))
    read_by_both = sum(
        len(turn.text.split()) for role in (one.leader, one.follower) for turns, _ in asked(role) for turn in turns
    )
    assert found[-1].prompt_tokens == read_by_both
    logprobs = "".join(one.token for chunk in found for one in chunk.logprobs)
    assert logprobs == f"{first}It is 9."


def test_the_budget_holds_and_where_it_ends_before_them_the_draft_stays() -> None:
    first, texts = read("7", "8", "9", "9"), set()
    for budget in range(55, 120):
        one = follower(*FIRST, *FURTHER, said=(first, read("7", "9", "9")))
        found = chunks(one, SamplingParams(max_total_tokens=budget), DRAFT)
        assert sum(chunk.completion_tokens for chunk in found) + found[-1].prompt_tokens <= budget
        texts.add("".join(chunk.text for chunk in found))
    assert texts == {first, f"{first}It is 9."}


def test_where_they_do_not_fit_beside_the_draft_it_stays() -> None:
    first, long = read("7", "8", "9", "9"), "so " * 12 + "9."
    one = follower(*FIRST, long, long, said=(first,), room=40)
    assert text(one, DRAFT) == first
    assert len(asked(one.leader)) == 5


def test_where_none_of_them_comes_to_an_end_nobody_reads_them() -> None:
    first = read("7", "8", "9", "9")
    one = follower(*FIRST, "word " * 30, "", said=(first,))
    assert text(one, DRAFT) == first
    assert len(asked(one.follower)) == 1


def test_what_was_said_before_them_is_paid_for_where_they_fail() -> None:
    first = read("7", "8", "9", "9")
    one = follower(*FIRST, EngineFailed("broken"), FURTHER[0], said=(first,))

    found: list[Chunk] = []

    async def all_of() -> None:
        async for chunk in one.stream(DRAFT, SAMPLING, request_id="r", deltas=False):
            found.append(chunk)

    with pytest.raises(EngineFailed, match="broken"):
        asyncio.run(all_of())
    own = sum(len(answer.split()) for answer in FIRST)
    assert sum(chunk.completion_tokens for chunk in found) == own + len(first.split(" "))


def test_one_that_loses_what_the_draft_meets_gives_way_to_a_further_one() -> None:
    first = read("7", "8", "9", "9")
    own = ("So 8 it is.", "It is 9, then.", "Well, it is 9.", "I say it is 9.", "It is 9 then.")
    one = follower(*own, said=(first, read("7", "9", "9")))
    assert text(one, of(ASKS, "I say it is 7.")) == f"{first}I say it is 9."


def test_a_further_one_that_meets_all_may_replace_a_draft_that_misses_something() -> None:
    first = read("7", "8", "9", "9")
    own = ("So, 8 it is.", "It is 9, then.", "Well, it is 9.", "So, it is 7.", "It is 9 then.")
    one = follower(*own, said=(first, read("7", "7", "9")))
    assert text(one, of(ASKS, "So, it is 7.")) == f"{first}It is 9 then."


def test_who_closes_the_round_ends_them() -> None:
    first = read("7", "8", "9", "9")
    answers = iter([*FIRST, "word " * 15, "word " * 15])
    leader = model(lambda turns: next(answers), token_seconds=0.02)
    one = follower(said=(first,))
    one = ComparingFollower(leader, one.follower, one.how, one.turn)

    assert asyncio.run(cut(one, leader, DRAFT, after_words=True)) == 2
    assert leader.running == 0
