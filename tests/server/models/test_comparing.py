"""A Follower with answers of its own: they are written without the draft, at once, and count as its thoughts."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from slhf import OwnAnswers, follower_turn
from slhf_server.errors import ContextLengthExceeded, EngineFailed, TokenBudgetExceeded
from slhf_server.models.base import Chunk, SamplingParams, Turn
from slhf_server.models.comparing import ComparingFollower
from slhf_server.models.fake import FakeModel, Reply, Said
from slhf_server.models.structured_output.response_format import StructuredOutput

TURNS = (Turn("user", "How many?"), Turn("assistant", "Seven."), Turn("user", "Improve it."))
SAMPLING = SamplingParams(temperature=0.7, seed=5, max_tokens=50, logprobs=2, stop=("END",), cache_salt="mine")


def model(reply: Reply, *, token_seconds: float = 0, max_model_len: int = 4096) -> FakeModel:
    return FakeModel("fake", reply, token_seconds=token_seconds, max_model_len=max_model_len)


def own_answers(count: int) -> OwnAnswers:
    return OwnAnswers(count=count, max_tokens=20, temperature=0.5)


def follower(*own: Said, said: str = "Nine.", count: int = 3, max_model_len: int = 4096) -> ComparingFollower:
    """The Leader says these one after the other."""
    answers = iter(own)
    return ComparingFollower(
        model(lambda turns: next(answers), max_model_len=max_model_len),
        model(lambda turns: said, max_model_len=max_model_len),
        own_answers(count),
        TURNS[-1].text,
    )


def chunks(
    one: ComparingFollower, sampling: SamplingParams = SAMPLING, turns: Sequence[Turn] = TURNS, *, deltas: bool = True
) -> list[Chunk]:
    async def all_of() -> list[Chunk]:
        return [chunk async for chunk in one.stream(turns, sampling, request_id="r", deltas=deltas)]

    return asyncio.run(all_of())


def asked(role: object) -> list[tuple[Sequence[Turn], SamplingParams]]:
    assert isinstance(role, FakeModel)
    return role.calls


def test_own_answers_are_written_without_the_draft_and_stand_in_the_followers_turn() -> None:
    one = follower("Eight.", " Nine. ", "Ten.")
    assert "".join(chunk.text for chunk in chunks(one)) == "Nine."
    assert [list(turns) for turns, _ in asked(one.leader)] == [[TURNS[0]]] * 3
    ((turns, _),) = asked(one.follower)
    assert list(turns[:-1]) == list(TURNS[:-1])
    assert turns[-1].role == "user"
    assert turns[-1].text == (
        "Improve it.\n\nOther answers to the same request:\n\n[1]\nEight.\n\n[2]\nNine.\n\n[3]\nTen."
    )


def test_a_requests_instruction_is_followed_without_own_answers() -> None:
    """They would be written without it, and taken over to the letter."""
    one = follower("Eight.", "Nine.", "Ten.", said="NINE.")
    turns = (*TURNS[:-1], Turn("user", follower_turn(TURNS[-1].text, "Use capitals.")))
    found = chunks(one, turns=turns)
    assert "".join(chunk.text for chunk in found) == "NINE."
    assert asked(one.leader) == []
    assert asked(one.follower) == [(turns, SAMPLING)]
    assert sum(chunk.reasoning_tokens for chunk in found) == 0


def test_own_answers_have_noise_of_their_own_and_the_bundles_temperature() -> None:
    """At temperature 0, which a request may want, they would be one answer."""
    one = follower("Eight.", "Nine.", "Ten.")
    chunks(one)
    seeds = [sampling.seed for _, sampling in asked(one.leader)]
    assert len({*seeds, SAMPLING.seed}) == 4
    for _, sampling in asked(one.leader):
        assert (sampling.temperature, sampling.top_p) == (0.5, None)
        assert (sampling.max_tokens, sampling.stop, sampling.cache_salt) == (20, ("END",), "mine")
    assert asked(one.follower)[0][1] == SAMPLING


@pytest.mark.parametrize(("temperature", "same"), [(0.0, True), (0.7, False), (None, False)])
def test_without_a_seed_only_temperature_0_is_deterministic(temperature: float | None, same: bool) -> None:
    one = follower("Eight.", "Nine.", "Ten.")
    chunks(one, SamplingParams(temperature=temperature))
    seeds = [sampling.seed for _, sampling in asked(one.leader)]
    assert (None not in seeds) == same
    assert len(set(seeds)) == (3 if same else 1)


def test_a_seed_near_the_limit_stays_within_it() -> None:
    one = follower("Eight.", "Nine.", "Ten.")
    chunks(one, SamplingParams(seed=2**63 - 1))
    assert all(0 <= (sampling.seed or 0) < 2**63 for _, sampling in asked(one.leader))


def test_the_rounds_usage_counts_own_answers_as_thoughts() -> None:
    """A token of the fake is a word: the Leader reads 2 and writes 1, 2 and 3, and the Follower reads 19."""
    one = follower("Eight.", "It is nine.", "I say ten.")
    found = chunks(one)
    assert found[0].text == ""
    assert sum(chunk.completion_tokens for chunk in found) == 7 + 1
    read = sum(len(turn.text.split()) for turn in asked(one.follower)[0][0])
    assert found[-1].prompt_tokens == 3 * 2 + read
    assert found[-1].reasoning_tokens == 7
    assert [chunk.reasoning_tokens for chunk in found[:-1]] == [0] * (len(found) - 1)


@pytest.mark.parametrize("deltas", [True, False])
def test_what_came_to_no_end_or_says_nothing_is_left_out(deltas: bool) -> None:
    one = follower("word " * 30, "  ", "<think>so</think> Ten.")
    chunks(one, deltas=deltas)
    assert asked(one.follower)[0][0][-1].text.endswith(":\n\n[1]\nTen.")
    one = follower("", "", "")
    chunks(one, deltas=deltas)
    assert asked(one.follower)[0][0] == [*TURNS]


def test_a_draft_is_refined_where_not_all_own_answers_fit_beside_it() -> None:
    one = follower(*["eight " * 9 + "ten"] * 3, max_model_len=40)
    assert "".join(chunk.text for chunk in chunks(one)) == "Nine."
    *refused, (turns, _) = asked(one.follower)
    assert len(refused) == 1
    assert "[2]" in turns[-1].text
    assert "[3]" not in turns[-1].text


def test_a_draft_that_does_not_fit_alone_is_refused() -> None:
    one = follower("Eight.", "Nine.", "Ten.", max_model_len=10)
    long = (TURNS[0], Turn("assistant", "seven " * 12), TURNS[2])
    with pytest.raises(ContextLengthExceeded):
        chunks(one, turns=long)


def test_the_budget_holds_for_all_of_a_round() -> None:
    one = follower(*["eight " * 9 + "ten"] * 3, said="nine " * 60)
    found = chunks(one, SamplingParams(max_total_tokens=100))
    assert sum(chunk.completion_tokens for chunk in found) + found[-1].prompt_tokens <= 100
    with pytest.raises(TokenBudgetExceeded):
        chunks(follower("Eight.", "Nine.", "Ten."), SamplingParams(max_total_tokens=6))


def test_an_own_answer_that_fails_fails_the_round_and_ends_the_others() -> None:
    leader = model(_failing_once(), token_seconds=0.05)
    one = ComparingFollower(leader, model(lambda turns: "Nine."), own_answers(3), TURNS[-1].text)
    with pytest.raises(EngineFailed, match="broken"):
        chunks(one)
    assert leader.running == 0


def _failing_once() -> Reply:
    numbers = iter(range(3))

    def reply(turns: Sequence[Turn]) -> Said:
        return EngineFailed("broken") if next(numbers) == 0 else "word " * 15

    return reply


def test_who_closes_the_round_ends_the_own_answers() -> None:
    leader = model(lambda turns: "word " * 15, token_seconds=0.05)
    one = ComparingFollower(leader, model(lambda turns: "Nine."), own_answers(3), TURNS[-1].text)

    assert asyncio.run(cut(one, leader)) == 3
    assert leader.running == 0


async def cut(
    one: ComparingFollower, leader: FakeModel, turns: Sequence[Turn] = TURNS, *, after_words: bool = False
) -> int:
    """How many answers the Leader was writing when the round was closed, right away or once something was said."""
    stream = one.stream(turns, SAMPLING, request_id="r", deltas=False)
    while after_words and not (await anext(stream)).text:
        pass
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0.05)
    running = leader.running
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await stream.aclose()
    return running


def read(draft: str, *own: str) -> str:
    """A Follower that says no more than the results."""
    lines = [f"The draft: {draft}", *(f"[{number}] {result}" for number, result in enumerate(own, start=1))]
    return "<think>\n{}\n</think>".format("\n".join(lines))


OWN = ("It is eight.", "So it is nine.", "I say nine.")


@pytest.mark.parametrize("deltas", [True, False])
@pytest.mark.parametrize(
    ("said", "chosen"),
    [
        (read("seven", "eight", "nine", "nine"), "So it is nine."),
        (read("seven", "eight", "nine", "nine") + "\n", "So it is nine."),
        (read("none", "none", "nine", "nine"), "So it is nine."),
        (read("seven", "seven", "nine", "nine"), None),  # one more is not enough
        (read("nine", "eight", "nine", "nine"), None),
        (read("seven", "eight", "nine", "ten"), None),
        (read("seven", "nine", "nine"), None),  # not of every answer: what was read may be another one's
        (read("seven", "nine", "nine", "nine", "nine"), None),
        (read("seven", "eight", "nine", "nine").replace("[2]", "[3]"), None),
        ("<think>\nIt stays.\n</think>", None),
        ("<think>\nThe draft: 7\n[1] 8\n[2] 9\n[3] 9", None),  # which has not come to its end
    ],
)
def test_after_results_alone_they_decide(said: str, chosen: str | None, deltas: bool) -> None:
    found = "".join(chunk.text for chunk in chunks(follower(*OWN, said=said), deltas=deltas))
    assert found == said + (chosen or "")


def test_what_the_follower_says_after_its_results_stands() -> None:
    said = read("seven", "eight", "nine", "nine") + "\nTen."
    assert "".join(chunk.text for chunk in chunks(follower(*OWN, said=said))) == said


def test_results_that_a_limit_cuts_decide_nothing() -> None:
    said = read("seven", "eight", "nine", "nine")
    found = chunks(follower(*OWN, said=said), SamplingParams(max_tokens=len(said.split(" "))))
    assert found[-1].finish_reason == "stop"
    found = chunks(follower(*OWN, said=f"{said} "), SamplingParams(max_tokens=len(said.split(" "))))
    assert found[-1].finish_reason == "length"
    assert "".join(chunk.text for chunk in found) == said


@pytest.mark.parametrize("deltas", [True, False])
def test_an_own_answer_that_takes_the_drafts_place_is_no_thought(deltas: bool) -> None:
    said = read("seven", "eight", "nine", "nine")
    found = chunks(follower(*OWN, said=said), deltas=deltas)
    tokens = sum(len(answer.split()) for answer in OWN)
    assert sum(chunk.completion_tokens for chunk in found) == tokens + len(said.split(" "))
    assert found[-1].reasoning_tokens == tokens - len("So it is nine.".split())
    logprobs = [one.token for chunk in found for one in chunk.logprobs]
    assert logprobs == [*fake_tokens(said), *fake_tokens("So it is nine.")]


def test_own_answers_that_think_take_the_drafts_place_without_their_thoughts() -> None:
    one = follower(OWN[0], f"<think>Hm.</think>{OWN[1]}", OWN[2], said=read("seven", "eight", "nine", "nine"))
    assert "".join(chunk.text for chunk in chunks(one)).endswith(f"</think>{OWN[1]}")


def fake_tokens(text: str) -> list[str]:
    """The fake's tokens."""
    return [word if number == 0 else f" {word}" for number, word in enumerate(text.split(" "))]


STAYS = "<think>\nIt stays.\n</think>"


def looking(looks: str, *, says: str = "Nine.") -> ComparingFollower:
    """A Follower that looks at the draft alone first; beside own answers it says something else."""
    leader = model(lambda turns: "Eight.")
    with_own = model(lambda turns: says if "Other answers" in turns[-1].text else looks)
    return ComparingFollower(leader, with_own, own_answers(3).model_copy(update={"first_look": True}), TURNS[-1].text)


@pytest.mark.parametrize("deltas", [True, False])
def test_where_a_first_look_says_that_the_draft_stays_no_own_answer_is_written(deltas: bool) -> None:
    one = looking(STAYS)
    found = chunks(one, deltas=deltas)
    assert asked(one.leader) == []
    ((turns, sampling),) = asked(one.follower)
    assert list(turns) == list(TURNS)
    assert sampling.max_tokens is not None
    assert sampling.max_tokens < 50
    assert "".join(chunk.text for chunk in found) == STAYS
    assert found[-1].finish_reason == "stop"
    assert sum(chunk.completion_tokens for chunk in found) == len(STAYS.split(" "))
    assert found[-1].prompt_tokens == sum(len(turn.text.split()) for turn in TURNS)


@pytest.mark.parametrize(
    "looks", ["<think>\nThe draft: 7\n</think>", "It stays.", f"{STAYS}\nNine!", "word " * 60, "", "<think>\nIt stays"]
)
def test_where_a_first_look_says_anything_else_the_round_is_as_without_one(looks: str) -> None:
    one = looking(looks)
    found = chunks(one)
    assert "".join(chunk.text for chunk in found) == "Nine."
    assert len(asked(one.leader)) == 3
    assert asked(one.follower)[-1][0][-1].text.endswith("[3]\nEight.")


def test_what_a_first_look_costs_is_counted_among_the_thoughts() -> None:
    plain, one = follower("Eight.", "Eight.", "Eight."), looking("<think> The draft: 7 </think>")
    without, found = chunks(plain), chunks(one)
    assert sum(chunk.completion_tokens for chunk in found) == sum(chunk.completion_tokens for chunk in without) + 5
    assert found[-1].reasoning_tokens == without[-1].reasoning_tokens + 5
    looked_at = sum(len(turn.text.split()) for turn in TURNS)
    assert found[-1].prompt_tokens == without[-1].prompt_tokens + looked_at


def test_a_first_look_is_paid_for_where_the_own_answers_fail() -> None:
    one = replace(looking("<think> The draft: 7 </think>"), leader=model(lambda turns: EngineFailed("broken")))

    async def first_of() -> Chunk:
        stream = one.stream(TURNS, SAMPLING, request_id="r")
        first = await anext(stream)
        with pytest.raises(EngineFailed):
            await anext(stream)
        return first

    look = asyncio.run(first_of())
    assert (look.text, look.completion_tokens) == ("", 5)
    assert look.prompt_tokens == sum(len(turn.text.split()) for turn in TURNS)


def test_a_draft_that_must_have_a_structure_is_not_kept_at_a_first_look() -> None:
    one = looking(STAYS)
    chunks(one, SamplingParams(structure=StructuredOutput({"type": "json_object"})))
    assert len(asked(one.leader)) == 3
    assert len(asked(one.follower)) == 1


def test_a_first_look_is_short_whatever_length_the_answer_must_have() -> None:
    one = looking(STAYS)
    chunks(one, SamplingParams(min_tokens=40, max_tokens=50))
    ((_, sampling),) = asked(one.follower)
    assert sampling.min_tokens is None


def test_a_first_look_is_within_the_budget() -> None:
    one = looking("<think>\nThe draft: 7\n</think>", says="nine " * 60)
    found = chunks(one, SamplingParams(max_total_tokens=100))
    assert sum(chunk.completion_tokens for chunk in found) + found[-1].prompt_tokens <= 100


ESSAY = "The air scatters blue light more than red light, and so the sky looks blue to everybody who looks up."


def only_results(draft: str) -> tuple[ComparingFollower, list[Turn]]:
    how = own_answers(3).model_copy(update={"only_results": True, "first_look": True})
    return replace(looking("<think> The draft: 7 </think>"), how=how), [TURNS[0], Turn("assistant", draft), TURNS[2]]


def test_where_only_results_are_compared_a_draft_without_one_stays_and_nobody_is_asked() -> None:
    one, turns = only_results(ESSAY)
    (found,) = chunks(one, turns=turns)
    assert (found.text, found.finish_reason) == (STAYS, "stop")
    assert (found.completion_tokens, found.prompt_tokens, found.reasoning_tokens) == (0, 0, 0)
    assert asked(one.leader) == asked(one.follower) == []


def test_where_only_results_are_compared_a_draft_with_one_is() -> None:
    one, turns = only_results(f"{ESSAY} That is 7.")
    assert "".join(chunk.text for chunk in chunks(one, turns=turns)) == "Nine."
    assert len(asked(one.leader)) == 3


def test_a_draft_that_must_have_a_structure_is_compared_whatever_it_states() -> None:
    one, turns = only_results(ESSAY)
    chunks(one, SamplingParams(structure=StructuredOutput({"type": "json_object"})), turns)
    assert len(asked(one.leader)) == 3


ASKS = "How many? Do not use any commas, and answer in at least 4 words."
SILENT = "<think>Well.</think>"


def of(prompt: str, draft: str) -> tuple[Turn, ...]:
    return (Turn("user", prompt), Turn("assistant", draft), TURNS[2])


def text(one: ComparingFollower, turns: Sequence[Turn], *, deltas: bool = True) -> str:
    found = chunks(one, turns=turns, deltas=deltas)
    return "".join(chunk.text for chunk in found)


@pytest.mark.parametrize("deltas", [True, False])
@pytest.mark.parametrize("said", [SILENT, STAYS, read("seven", "seven", "eight", "nine")])
def test_the_first_own_answer_that_meets_all_takes_the_place_of_a_draft_that_misses_something(
    said: str, deltas: bool
) -> None:
    own = ("Well, it is eight.", "Nine.", "It is ten then.")
    assert text(follower(*own, said=said), of(ASKS, "Seven, I say to you."), deltas=deltas) == f"{said}It is ten then."


@pytest.mark.parametrize(
    ("said", "draft", "own"),
    [
        (SILENT, "I say it is seven.", "It is ten then."),  # which misses nothing
        (SILENT, "Seven, I say to you.", "Well, it is ten."),
        (SILENT, "Seven, I say to you.", "Ten."),  # no more than some of it
        (f"{SILENT}Nine, say I.", "Seven, I say to you.", "It is ten then."),
        ("Nine, say I.", "Seven, I say to you.", "It is ten then."),
        ("", "Seven, I say to you.", "It is ten then."),
    ],
)
def test_otherwise_the_draft_stays_or_what_the_follower_wrote(said: str, draft: str, own: str) -> None:
    assert text(follower(own, own, own, said=said), of(ASKS, draft)) == said


def test_a_prompt_that_asks_for_nothing_that_a_program_can_check_changes_nothing() -> None:
    own = ("It is eight.", "It is nine.", "It is ten.")
    assert text(follower(*own, said=SILENT), of("How many commas, would you say?", "Seven, I say.")) == SILENT


def test_an_own_answer_that_results_choose_gives_way_to_another_one_with_its_result() -> None:
    """It misses what the draft meets; without another one the draft stays."""
    said, draft = read("seven", "nine", "nine", "eight"), "I say it is seven."
    own = ("Well, it is nine.", "I say it is nine.", "It is eight then.")
    assert text(follower(*own, said=said), of(ASKS, draft)) == f"{said}I say it is nine."
    own = ("Well, it is nine.", "Nine.", "It is eight then.")
    assert text(follower(*own, said=said), of(ASKS, draft)) == said


def test_what_the_draft_misses_as_well_is_no_reason_against_the_own_answer_that_results_choose() -> None:
    said = read("seven", "nine", "nine", "eight")
    own = ("Well, it is nine.", "Nine.", "It is eight then.")
    assert text(follower(*own, said=said), of(ASKS, "Seven, I say to you.")) == f"{said}Well, it is nine."


def test_an_own_answer_that_meets_what_the_draft_misses_is_no_thought() -> None:
    found = chunks(follower("It is ten then.", "Ten.", "Ten.", said=SILENT), turns=of(ASKS, "Seven, I say."))
    assert sum(chunk.completion_tokens for chunk in found) == 6 + len(SILENT.split(" "))
    assert found[-1].reasoning_tokens == 2
    logprobs = [one.token for chunk in found for one in chunk.logprobs]
    assert logprobs == [*fake_tokens(SILENT), *fake_tokens("It is ten then.")]


def test_a_draft_that_misses_something_does_not_stay_at_a_first_look() -> None:
    """Not even a look is taken: whatever it said, own answers would be written."""
    one = looking(STAYS)
    chunks(one, turns=of("How many? Use no commas.", "Seven, I say."))
    assert len(asked(one.leader)) == 3
    assert len(asked(one.follower)) == 1
    one = looking(STAYS)
    chunks(one, turns=of("How many? Use no commas.", "I say seven."))
    assert asked(one.leader) == []


def test_under_a_structure_the_prompt_is_not_looked_at() -> None:
    own = ("It is ten then.",) * 3
    sampling = SamplingParams(structure=StructuredOutput({"type": "json_object"}))
    found = chunks(follower(*own, said=SILENT), sampling, of(ASKS, "Seven, I say."))
    assert "".join(chunk.text for chunk in found) == SILENT


def test_with_an_instruction_the_prompt_is_not_looked_at() -> None:
    one = follower("It is ten then.", "It is ten then.", "It is ten then.", said=SILENT)
    turns = (*of(ASKS, "Seven, I say.")[:-1], Turn("user", follower_turn(TURNS[-1].text, "Use a comma.")))
    assert text(one, turns) == SILENT
    assert asked(one.leader) == []


def test_a_draft_that_misses_something_is_compared_whatever_it_states() -> None:
    one, turns = only_results(f"{ESSAY} So, it is blue.")
    assert text(one, (Turn("user", "Why is it? Use no commas."), *turns[1:])) == "Nine."
    assert len(asked(one.leader)) == 3


def test_own_answers_in_the_followers_words_are_left_out() -> None:
    """A model that plays both roles says them now and then, and two such answers would agree about nothing."""
    confused = "I apologize for the confusion. The draft: no."
    one = follower(confused, "Nine.", confused, said="Nine.")
    chunks(one)
    ((turns, _),) = asked(one.follower)
    assert turns[-1].text.endswith("Other answers to the same request:\n\n[1]\nNine.")


def test_results_that_no_answer_has_outvote_no_draft() -> None:
    said = read("7", "12", "12", "8")
    assert text(follower(*OWN, said=said), of("How many?", "That is 7.")) == said
    said = read("6", "8", "9", "9")  # of the draft, which says 7
    assert text(follower(*OWN, said=said), of("How many?", "That is 7.")) == said
