"""What a round must not lose: seen part by part, and what becomes of a round that has lost one."""

import asyncio
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slhf.history import Message
from slhf.wire import RefineOptions, RoundCompleted, RoundDelta
from slhf_server.errors import DeadlineExceeded
from slhf_server.models.base import SamplingParams, Turn
from slhf_server.models.fake import FakeEngine, Said
from slhf_server.refinement.job import Job
from slhf_server.refinement.kept import BY_DEFAULT, LOST, lost
from slhf_server.refinement.planner import Planner, RefineParams
from slhf_server.refinement.state import RefinementResult
from slhf_server.settings.endpoints import OWN_ENGINE
from slhf_server.settings.server import Kept, ServedModel, Settings
from tests.server.refinement.test_refinement import outcome, play

ASKED = "What is it? Please write at least 3 words, and do not use any commas."
PYTHON = "Here:\n\n```python\nprint(1)\n```\n"
QUESTION = Message(role="user", content="What is it?")
ENGLISH = "The heater in my flat is broken, and it is cold."
CHINESE = "我公寓里的暖气坏了，现在非常冷，请您尽快派人来修理好，非常感谢您的帮助。"


@pytest.mark.parametrize(
    ("name", "draft", "refined"),
    [
        ("code", PYTHON, "Here: print(1)"),
        ("code", PYTHON, PYTHON.replace("python", "java")),
        ("code", PYTHON + PYTHON, PYTHON),
        ("code", PYTHON + PYTHON.replace("python", ""), PYTHON),
        ("code", PYTHON, PYTHON.replace("python", "")),
        ("code", PYTHON, PYTHON.replace("```python", "```").replace("print(1)", "~~~python")),
        ("language", ENGLISH, CHINESE),
        ("language", CHINESE, ENGLISH),
        ("numbers", "It takes 12 days and 3.5 hours.", "It takes 12 days."),
        ("urls", "See https://example.org/a?b=1.", "See https://example.org."),
        ("quotes", 'He said "no way" to me.', "He said no to me."),
        ("quotes", "Er sagte „nein“.", "Er sagte ja."),
        ("lists", "- one\n- two\n- three", "- one\n- two and three"),
        ("lists", "1. one\n2. two", "one and two"),
        ("json", '{"a": 1}', 'Sure! {"a": 1}'),
        ("json", "[1, 2]", "[1, 2"),
        ("instructions", "It is a cat.", "It is a cat, I say."),
        ("instructions", "It is a cat, I say.", "A cat."),
    ],
)
def test_what_is_gone_is_seen(name: Kept, draft: str, refined: str) -> None:
    assert lost([name], ASKED, draft, refined) == name


@pytest.mark.parametrize(
    ("name", "draft", "refined"),
    [
        ("code", PYTHON, f"Better:\n{PYTHON}\n```bash\npython a.py\n```"),
        ("code", PYTHON, PYTHON.replace("```", "~~~~")),
        ("code", "no code", "none here"),
        ("code", PYTHON.replace("python", ""), PYTHON),
        ("code", PYTHON.replace("python", "py"), PYTHON),
        ("language", ENGLISH, "El radiador de mi piso está roto y hace frío."),  # its letters are the same
        ("language", ENGLISH, f"{ENGLISH} (坏了)"),
        ("language", ENGLISH, "42"),  # too few letters to tell
        ("language", "これは日本語の文章です。漢字も仮名も混ざります。", CHINESE),
        ("numbers", "It takes 12 days.", "It takes 12 days, not 13."),
        ("numbers", "12 and 12", "12"),
        ("urls", "See https://example.org/a.", "See (https://example.org/a)!"),
        ("quotes", 'He said "no way".', 'She heard "no way" and "yes".'),
        ("lists", "- one\n- two", "* one\n* two\n* three"),
        ("json", '{"a": 1}', '{"b": 2}'),
        ("json", "{not JSON", "neither"),
        ("instructions", "It is a cat, I say.", "It is a dog, I say."),  # which the draft did not do either
        ("instructions", "It is a cat.", "Sure, here it is:\nIt is a dog."),
    ],
)
def test_what_is_there_still_is_not(name: Kept, draft: str, refined: str) -> None:
    assert lost([name], ASKED, draft, refined) is None


@given(st.text(), st.text())
@settings(max_examples=200, deadline=None)
def test_any_two_texts_can_be_compared_and_none_loses_anything_against_itself(draft: str, refined: str) -> None:
    for name in LOST:
        lost([name], ASKED, draft, refined)
        assert lost([name], ASKED, draft, draft) is None
        assert lost([name], ASKED, draft, f"{draft}\n\n{draft}") is None or name in (
            "json",
            "code",
            "language",
            "instructions",
        )


def drops_code(turns: Sequence[Turn]) -> str:
    return "no code any more" if turns[-2].role == "assistant" else PYTHON


def test_a_round_that_lost_something_leaves_its_draft_and_says_so() -> None:
    engine = FakeEngine(drops_code)
    found = outcome(engine, rounds=2, draft=PYTHON, kept=("numbers", "code"))
    first, second = found.refinement.rounds[1:]
    assert (found.text, found.refinement.applied, found.refinement.returned_round) == (PYTHON, False, 2)
    assert [(one.text, one.lost, one.edit_ratio, one.finish_reason) for one in (first, second)] == [
        (PYTHON, "numbers", 0.0, "stop")
    ] * 2
    assert first.usage.completion_tokens == len("no code any more".split())  # it was paid for
    assert engine.follower.calls[1][0][-2].text == PYTHON  # and the next round goes on from the draft


def test_a_round_that_no_longer_does_what_the_prompt_asks_for_leaves_its_draft() -> None:
    asks = (Turn("user", "What is it? Use no commas."),)
    said = iter(["It is a cat, a small one.", "It is a small cat."])
    found = outcome(
        FakeEngine(lambda turns: next(said)), turns=asks, rounds=2, draft="It is a cat.", kept=("instructions",)
    )
    assert [one.lost for one in found.refinement.rounds] == [None, "instructions", None]
    assert found.text == "It is a small cat."


def test_a_later_round_that_keeps_everything_is_the_answer() -> None:
    said = iter(["gone", f"better {PYTHON}", "gone again"])
    found = outcome(FakeEngine(lambda turns: next(said)), rounds=3, draft=PYTHON, kept=("code",))
    assert found.text == f"better {PYTHON}"
    assert [one.lost for one in found.refinement.rounds] == [None, "code", None, "code"]
    assert found.refinement.applied


def test_of_a_stream_what_was_shown_as_the_answer_is_not_taken_back() -> None:
    shown = play(FakeEngine(drops_code), draft=PYTHON, kept=("code",), deltas="last")
    found = shown[-1]
    assert isinstance(found, RefinementResult)
    assert found.text == "no code any more" == "".join(e.delta for e in shown if isinstance(e, RoundDelta))
    assert found.refinement.rounds[1].lost is None


def test_a_round_that_is_held_back_is_shown_when_it_is_whole() -> None:
    shown = play(FakeEngine(drops_code), draft=PYTHON, kept=("code",), holds_back=True, deltas="last")
    assert not [event for event in shown if isinstance(event, RoundDelta)]
    assert isinstance(shown[-1], RefinementResult)
    assert shown[-1].text == PYTHON


def test_refine_streams_pieces_and_says_at_their_end_that_the_draft_stays() -> None:
    shown = play(FakeEngine(drops_code), draft=PYTHON, kept=("code",), holds_back=True, deltas="all", endpoint="refine")
    assert "".join(event.delta for event in shown if isinstance(event, RoundDelta)) == "no code any more"
    completed = [event for event in shown if isinstance(event, RoundCompleted)][-1]
    assert (completed.text, completed.lost) == (PYTHON, "code")


def test_an_error_after_a_lost_round_returns_the_draft() -> None:
    replies: Iterator[Said] = iter(["gone", DeadlineExceeded("too late")])
    found = outcome(FakeEngine(lambda turns: next(replies)), rounds=2, draft=PYTHON, kept=("code",))
    assert (found.text, found.refinement.stop_reason, found.refinement.applied) == (PYTHON, "deadline", False)


@pytest.mark.parametrize(
    ("keep", "instruction", "kept", "held"),
    [
        (None, None, BY_DEFAULT, False),
        ((), None, (), False),
        (("urls",), None, ("urls",), True),
        (None, "Answer in Chinese.", (), False),  # a wish may be to lose it
        (("instructions",), None, ("instructions",), True),
        (("instructions",), "Make it longer.", (), False),  # which overrules "at most 50 words" of the prompt
        (("urls",), "Without links.", (), False),
    ],
)
def test_a_served_model_says_what_is_kept(
    keep: tuple[Kept, ...] | None, instruction: str | None, kept: tuple[Kept, ...], held: bool
) -> None:
    job = asyncio.run(planned(ServedModel(keep=keep), instruction))
    assert (job.kept, job.holds_back) == (kept, held)


async def planned(served: ServedModel, instruction: str | None) -> Job:
    planner = Planner(Settings(models={"m": served}), {OWN_ENGINE: FakeEngine()}, {})
    options = RefineOptions(draft="a draft", instruction=instruction)
    (job,) = planner.plan(RefineParams("refine", "1", None, [QUESTION], options, SamplingParams(), "none"))
    return job
