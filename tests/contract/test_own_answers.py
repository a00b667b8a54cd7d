"""What a prompt asks for decides between a draft and the Follower's own answers (docs/api.md, "Thoughts")."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest

from slhf import Bundle, OwnAnswers
from slhf_server.models.base import Turn
from slhf_server.models.comparing import comparing
from slhf_server.models.fake import FakeEngine
from slhf_server.models.requirements.running import Sandbox
from tests.conftest import Serve
from tests.hosts import needs_sandbox

DRAFT = "Cats purr, as a rule, when they like it."
OWN = "cats purr when they like it"
BUNDLE = Bundle(
    name="fake",
    own_answers=OwnAnswers(count=2, max_tokens=50, temperature=0.5, first_look=True),
    keeps_by_silence=True,
)


def comparing_engine(own: str = OWN, sandbox: Sandbox | None = None) -> FakeEngine:
    """A Follower that leaves every draft as it is, and a Leader that answers in small letters without a comma."""

    def reply(turns: Sequence[Turn]) -> str:
        return "<think>\nIt stays.\n</think>" if turns[-2:-1] and turns[-2].role == "assistant" else own

    engine = FakeEngine(reply)
    engine.manifest = BUNDLE
    engine.follower = comparing(engine.leader, engine.follower, BUNDLE, sandbox)  # type: ignore[assignment]
    return engine


@pytest.mark.parametrize(
    ("prompt", "output", "changed"),
    [
        ("Why do cats purr?", DRAFT, False),
        ("Why do cats purr? Do not use any commas.", OWN, True),
        ("Why do cats purr? Please answer in all lowercase letters.", OWN, True),
        ("Why do cats purr? Use no commas, and answer in at least 40 words.", DRAFT, False),  # nor has the other one
        ("Why do cats purr? Answer in at most 9 words.", DRAFT, False),
    ],
)
def test_an_own_answer_takes_the_place_of_a_draft_that_misses_what_the_prompt_asks_for(
    serve: Serve, prompt: str, output: str, changed: bool
) -> None:
    url = serve(comparing_engine())
    answer = httpx2.post(f"{url}/v1/refine", json={"prompt": prompt, "draft": DRAFT, "rounds": 1}).json()
    assert answer["output"] == output
    (_, done) = answer["refinement"]["rounds"]
    assert (done["edit_ratio"] > 0) == changed
    assert done["lost"] is None


def test_so_it_does_in_a_stream(serve: Serve) -> None:
    url = serve(comparing_engine())
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as sdk:
        stream = sdk.chat.completions.create(
            model="fake",
            messages=[{"role": "user", "content": "Why do cats purr? Do not use any commas."}],
            stream=True,
            extra_body={"refine": {"draft": DRAFT, "rounds": 1}},
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == OWN


def test_a_requests_instruction_is_not_held_against_the_prompt(serve: Serve) -> None:
    url = serve(comparing_engine())
    body = {"prompt": "Why do cats purr? Use no commas.", "draft": DRAFT, "rounds": 1, "instruction": "With commas."}
    assert httpx2.post(f"{url}/v1/refine", json=body).json()["output"] == DRAFT


def test_further_own_answers_are_a_part_of_the_round_that_they_decide(serve: Serve) -> None:
    """Two own answers give another result than the draft's, which is less than the margin of three; so do two more."""
    read = "<think>\nThe draft: seven\n[1] nine\n[2] nine\n</think>"

    def reply(turns: Sequence[Turn]) -> str:
        return "It is nine." if turns[-1].text == "How many?" else read

    engine = FakeEngine(reply)
    engine.manifest = BUNDLE.model_copy(
        update={"own_answers": OwnAnswers(count=2, max_tokens=50, temperature=0.5, margin=3, further=2)}
    )
    engine.follower = comparing(engine.leader, engine.follower, engine.manifest)  # type: ignore[assignment]
    body = {"prompt": "How many?", "draft": "It is seven.", "rounds": 1}
    answer = httpx2.post(f"{serve(engine)}/v1/refine", json=body).json()
    (_, done) = answer["refinement"]["rounds"]
    assert (answer["output"], done["edit_ratio"] > 0, done["finish_reason"]) == ("It is nine.", True, "stop")
    readings, own = len(read.split(" ")), 3  # a token of the fake is a word
    assert done["usage"]["completion_tokens"] == 4 * own + 2 * readings
    # The first readings are the Follower's own words, whose thoughts the engine counts and the fake does not.
    assert done["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3 * own + readings


ADDS = "Write `def add(a, b):` in Python. For example, this must hold: `assert add(1, 2) == 3`"
RIGHT, WRONG, ENDLESS = (f"def add(a, b):\n    {body}" for body in ("return a + b", "return a - b", "while True: pass"))


@needs_sandbox
@pytest.mark.parametrize(
    ("draft", "own", "output"),
    [
        (WRONG, f"```python\n{RIGHT}\n```", f"```python\n{RIGHT}\n```"),
        (RIGHT, WRONG, RIGHT),
        (WRONG, ENDLESS.replace("True", "a"), WRONG),
        ("It adds.", RIGHT, "It adds."),
    ],
)
def test_a_program_that_passes_the_prompts_examples_takes_the_place_of_one_that_fails(
    serve: Serve, draft: str, own: str, output: str
) -> None:
    url = serve(comparing_engine(own, Sandbox(seconds=1)))
    answer = httpx2.post(f"{url}/v1/refine", json={"prompt": ADDS, "draft": draft, "rounds": 1}, timeout=30).json()
    assert answer["output"] == output


@needs_sandbox
@pytest.mark.parametrize(("keep", "lost"), [(None, None), (["code"], "code"), (["urls"], None)])
def test_a_program_that_is_known_to_be_better_may_lose_code_unless_the_operator_says_so(
    serve: Serve, keep: list[str] | None, lost: str | None
) -> None:
    own, draft = f"```python\n{RIGHT}\n```", f"```python\n{WRONG}\n```\nSo:\n```\n>>> add(1, 2)\n3\n```"
    models = {"models": {"fake": {"keep": keep}}}
    url = serve(comparing_engine(own, Sandbox()), **models)
    answer = httpx2.post(f"{url}/v1/refine", json={"prompt": ADDS, "draft": draft, "rounds": 1}, timeout=30).json()
    assert answer["output"] == (draft if lost else own)
    assert answer["refinement"]["rounds"][1]["lost"] == lost


def test_no_program_is_run_unless_the_server_may(serve: Serve) -> None:
    url = serve(comparing_engine(RIGHT))
    assert httpx2.post(f"{url}/v1/refine", json={"prompt": ADDS, "draft": WRONG, "rounds": 1}).json()["output"] == WRONG


@needs_sandbox
def test_programs_without_end_stop_nobody_else(serve: Serve) -> None:
    """Others are answered while they run, and each of their own requests ends with its draft."""
    url = serve(comparing_engine(ENDLESS, Sandbox(seconds=1)))
    bodies = [{"prompt": ADDS, "draft": f"{ENDLESS}\n# {number}", "rounds": 1} for number in range(12)]
    with ThreadPoolExecutor(len(bodies)) as pool:
        hostile = [pool.submit(httpx2.post, f"{url}/v1/refine", json=body, timeout=60) for body in bodies]
        body = {"prompt": "Why do cats purr?", "draft": DRAFT, "rounds": 1}
        assert httpx2.post(f"{url}/v1/refine", json=body, timeout=60).json()["output"] == DRAFT
        assert [one.result().json()["output"] for one in hostile] == [body["draft"] for body in bodies]
