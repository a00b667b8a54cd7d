"""vLLM schedules by the request's priority: with every seat taken, the sooner one gets the first that is free."""

from slhf_server.models.base import SamplingParams, Turn
from tests.engine.conftest import EXACT, ExactEngine

ASK = [Turn("user", "Count.")]


def test_of_two_that_wait_the_sooner_one_begins_first_although_it_came_later(exact: ExactEngine) -> None:
    """Seats are given up one by one, so that never two who wait begin in one step."""
    seats = EXACT["max_num_seqs"]
    lengths = [8, 24, *[40] * (seats - 2)]  # tokens; guesses make them fewer steps
    sitting = [(ASK, SamplingParams(temperature=0, min_tokens=length, max_tokens=length)) for length in lengths]
    waiting = [(ASK, SamplingParams(temperature=0, min_tokens=4, max_tokens=4, priority=p)) for p in (5, 0)]
    assert exact.begun(sitting, waiting) == [1, 0]
