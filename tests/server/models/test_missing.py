"""How own answers are written where the prompt forbids something, or the draft misses what it asks for."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import pytest

from slhf_server.errors import BadRequest
from slhf_server.models.base import Chunk, SamplingParams, Turn
from slhf_server.models.fake import FakeModel
from tests.server.models.test_comparing import ASKS, SILENT, STAYS, asked, chunks, follower, of, text


def test_own_answers_are_written_without_the_characters_that_the_prompt_forbids() -> None:
    one = follower("Eight.", "Nine.", "Ten.")
    chunks(one, turns=of("How many? Do not use any commas. Answer in all lowercase letters.", "Seven, I say."))
    assert {sampling.pattern for _, sampling in asked(one.leader)} == {"[^,A-Z]+"}
    assert asked(one.follower)[0][1].pattern is None
    one = follower("Eight.", "Nine.", "Ten.")
    chunks(one, turns=of("How many?", "Seven, I say."))
    assert {sampling.pattern for _, sampling in asked(one.leader)} == {None}


@pytest.mark.parametrize(
    ("draft", "most", "expected"),
    [
        ("I say it is seven.", None, 20),
        ("I say it is seven.", 10, 10),
        ("Seven, I say to you.", None, None),  # the model's own limit
        ("Seven, I say to you.", 30, 30),
    ],
)
def test_beside_a_draft_that_misses_something_own_answers_may_be_as_long_as_any(
    draft: str, most: int | None, expected: int | None
) -> None:
    one = follower("Eight.", "Nine.", "Ten.")
    chunks(one, SamplingParams(max_tokens=most), of(ASKS, draft))
    assert {sampling.max_tokens for _, sampling in asked(one.leader)} == {expected}


LONG = "ten " * 39 + "ten"


@pytest.mark.parametrize("limit", [{"max_total_tokens": 330}, {"max_model_len": 120}])
def test_an_own_answer_that_the_follower_has_no_room_to_read_may_take_the_drafts_place(limit: dict[str, int]) -> None:
    """It was paid for, and a draft that misses something would be the alternative."""
    one = follower(LONG, LONG, LONG, said=STAYS, max_model_len=limit.get("max_model_len", 4096))
    how = one.how.model_copy(update={"max_tokens": 400})
    found = chunks(
        replace(one, how=how), SamplingParams(max_total_tokens=limit.get("max_total_tokens")), of(ASKS, "Seven, I say.")
    )
    assert "".join(chunk.text for chunk in found) == f"{STAYS}{LONG}"


def test_own_answers_are_written_without_a_grammar_where_the_engine_knows_none() -> None:
    class Without(FakeModel):
        async def stream(
            self, turns: Sequence[Turn], sampling: SamplingParams, *, request_id: str, deltas: bool = True
        ) -> AsyncGenerator[Chunk, None]:
            if sampling.pattern is not None:
                raise BadRequest("no grammars here")
            async for chunk in super().stream(turns, sampling, request_id=request_id, deltas=deltas):
                yield chunk

    leader = Without("fake", lambda turns: "It is ten then.", token_seconds=0, max_model_len=4096)
    one = replace(follower("", said=SILENT), leader=leader)
    assert text(one, of(ASKS, "Seven, I say.")) == f"{SILENT}It is ten then."
