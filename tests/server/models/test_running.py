"""A Follower whose server may run programs: what they do on the prompt's examples decides, and nobody is asked."""

from dataclasses import replace

import pytest

from slhf import follower_turn
from slhf_server.models.base import SamplingParams, Turn
from slhf_server.models.comparing import ComparingFollower
from slhf_server.models.fake import Said
from slhf_server.models.requirements.running import Sandbox
from slhf_server.models.structured_output.response_format import StructuredOutput
from tests.hosts import needs_sandbox
from tests.server.models.test_comparing import (
    STAYS,
    TURNS,
    asked,
    chunks,
    fake_tokens,
    follower,
    of,
    own_answers,
    read,
    text,
)

ADDS = "Write `def add(a, b):`. This must hold: `assert add(1, 2) == 3`"
RIGHT, WRONG = "def add(a, b):\n    return a + b", "def add(a, b):\n    return a - b"


def running(*own: Said, said: str = STAYS) -> ComparingFollower:
    """One that looks at the draft alone first, and may run programs."""
    how = own_answers(len(own)).model_copy(update={"first_look": True, "only_results": True, "max_tokens": 50})
    return replace(follower(*own, said=said, count=len(own)), how=how, sandbox=Sandbox())


@needs_sandbox
@pytest.mark.parametrize("deltas", [True, False])
def test_the_first_own_program_that_passes_the_prompts_examples_takes_the_place_of_one_that_fails(deltas: bool) -> None:
    own = (f"```python\n{WRONG}\n```", f"So:\n```python\n{RIGHT}\n```", RIGHT)
    one = running(*own)
    found = chunks(one, turns=of(ADDS, WRONG), deltas=deltas)
    assert "".join(chunk.text for chunk in found) == own[1]
    assert (found[-1].finish_reason, found[-1].proven) == ("stop", True)
    assert asked(one.follower) == []
    tokens = sum(len(answer.split(" ")) for answer in own)
    assert sum(chunk.completion_tokens for chunk in found) == tokens
    assert found[-1].reasoning_tokens == tokens - len(own[1].split(" "))
    assert [token.token for token in found[-1].logprobs] == fake_tokens(own[1])


@needs_sandbox
@pytest.mark.parametrize(
    ("draft", "own"),
    [
        (WRONG, (WRONG, "It adds.", "def add(a, b: return")),
        ("It adds two numbers, which is the easiest thing to do with numbers that I know.", (RIGHT, RIGHT, RIGHT)),
    ],
)
def test_without_a_program_that_passes_or_fails_the_draft_stays(draft: str, own: tuple[str, ...]) -> None:
    assert text(running(*own), of(ADDS, draft)) == STAYS


@needs_sandbox
def test_a_program_that_passes_its_prompts_examples_stays_at_a_first_look() -> None:
    one = running(WRONG, WRONG)
    assert (
        text(one, of(ADDS, f"{RIGHT}\n# It adds two numbers, which takes no more than the one line above this one."))
        == STAYS
    )
    assert asked(one.leader) == []


@needs_sandbox
def test_an_own_answer_that_results_choose_gives_way_where_its_program_fails() -> None:
    said = read("3", "5", "5", "4")
    own = (f"{WRONG}\n# 5", f"{RIGHT}\n# 5", "4")
    assert text(running(*own, said=said), of(ADDS, f"{RIGHT}\n# 3")) == f"{said}{own[1]}"


@needs_sandbox
def test_nothing_is_run_for_a_draft_that_must_have_a_structure_or_beside_an_instruction() -> None:
    ends = "def add(a, b):\n    while True: pass"
    one = running(RIGHT, RIGHT)
    chunks(one, SamplingParams(structure=StructuredOutput({"type": "json_object"})), of(ADDS, ends))
    turns = (*of(ADDS, ends)[:-1], Turn("user", follower_turn(TURNS[-1].text, "Shorter.")))
    assert text(one, turns) == STAYS
