"""What a Follower learns to think before it keeps or changes a draft."""

import pytest

from slhf.readings import Readings
from slhf_training.checks.answers import Accepted, AcceptedSettings, Exact, ExactSettings, Number, NumberSettings
from slhf_training.checks.tests import UnitTestsSettings
from slhf_training.lessons.thoughts import considered
from slhf_training.lessons.traced import traced

OWN = "def f(x):\n    return 2 * x"
FENCED = f"```python\n{OWN}\n```"
READ = Number(NumberSettings(kind="number", answer="1")).read
SIX, SEVEN, EIGHT, NINE = "3 + 3 = 6", "3 + 4 = 7", "4 + 4 = 8", "4 + 5 = 9"


@pytest.mark.parametrize(
    ("draft", "own", "answer", "doubted"),
    [
        (SIX, [SIX, SIX, SIX], SIX, False),
        (SIX, [SEVEN], SIX, True),  # one answer is no evidence
        (SIX, [SEVEN, EIGHT, NINE, "None of it."], SIX, True),
        (SIX, [SEVEN, "So it is 7."], SEVEN, True),
        (SIX, [EIGHT, SEVEN, "So it is 7.0"], SEVEN, True),
        (SIX, [SIX, SEVEN, "So it is 7."], SIX, True),
        (SIX, [SIX, SEVEN, "So it is 7.", "And 7."], SEVEN, True),
        (SIX, [SIX, "It is 6.0", SEVEN, SEVEN], SIX, False),
        (SIX, [SEVEN, SEVEN, EIGHT, EIGHT], SEVEN, True),  # the first of them
        ("I do not know.", [SEVEN, "So it is 7."], SEVEN, True),
        (SIX, ["Nobody knows.", "Who knows?", "Not I."], SIX, False),
        ("I do not know.", ["Nobody knows.", SEVEN], "I do not know.", True),
    ],
)
def test_a_result_that_two_more_own_answers_give_than_the_drafts_takes_its_place_and_nothing_else_does(
    draft: str, own: list[str], answer: str, doubted: bool
) -> None:
    found = considered(draft, own, READ)
    assert found is not None
    assert (found.answer, found.doubted, found.own) == (answer, doubted, tuple(own))
    assert found.before(answer) == found.before(None) == f"<think>\n{found.thoughts}\n</think>"


def test_the_thoughts_are_the_results() -> None:
    found = considered(SIX, [EIGHT, SEVEN, SIX, "7 it is: 7", "Who knows?"], READ)
    assert found is not None
    assert found.thoughts == "The draft: 6\n[1] 8\n[2] 7\n[3] 6\n[4] 7\n[5] none"
    assert Readings.parse(found.thoughts) == Readings("6", ("8", "7", "6", "7", None))


def test_without_own_answers_nothing_tells() -> None:
    assert considered(SIX, [], READ) is None


@pytest.mark.parametrize(
    ("right", "answer", "result"),
    [
        ("18", "9 * 2 = 18.00 dollars", "18"),
        ("18", "It is 17.60", "17.6"),
        ("18", "minus: -0.05", "-0.05"),
        ("18", "1/3 of it", "1/3"),
        ("0.3333", "0.33333333", "0.3333"),
        ("18", "1,234,567", "1234567"),
        ("18", "none at all", None),
    ],
)
def test_a_number_is_read_in_one_way(right: str, answer: str, result: str | None) -> None:
    assert Number(NumberSettings(kind="number", answer=right)).read(answer) == result


def test_of_words_the_last_line_or_sentence_is_read() -> None:
    exact, accepted = (
        Exact(ExactSettings(kind="exact", answer="b, a")),
        Accepted(AcceptedSettings(kind="accepted", answers=("Rome",))),
    )
    assert exact.read("Sorted:\n`b,a`.") == exact.read("b, a")
    assert exact.read(" ") is None
    assert accepted.read("I think so. It is the city of Rome!") == accepted.read("it is city of rome")
    assert accepted.read("…") is None


PASSES = UnitTestsSettings(kind="tests", entry_point="f", test_program="assert f(1) == 2 and f(3) == 6")


def test_a_program_that_passes_stays_whatever_the_own_ones_do() -> None:
    found = traced("def f(x): return x + x", ["def f(x): return 7"], PASSES)
    assert found is not None
    assert (found.thoughts, found.answer) == ("It stays.", "def f(x): return x + x")


def test_a_program_that_fails_becomes_the_own_one_that_passes_and_keeps_most_of_it() -> None:
    shifted = "def f(x):\n    return x << 1"
    own = ["def f(x):\n    return 2 * x * x", shifted, OWN, "def f(x): return 7"]
    found = traced("def f(x):\n    return 2 * 2", own, PASSES)
    assert found is not None
    assert (found.thoughts, found.answer, found.own) == ("It changes.", FENCED, tuple(own))
    assert found.before(FENCED) == f"<think>\nIt changes.\n</think>\n{FENCED}"


@pytest.mark.parametrize(
    ("draft", "own"),
    [
        ("I do not know!", [OWN]),
        ("def f(x): return x", []),
        ("def f(x): return x", ["I do not know!"]),
        ("def f(x): return x", ["def f(x): return 7"]),
    ],
)
def test_without_a_program_and_one_that_passes_in_its_place_there_is_no_thought(draft: str, own: list[str]) -> None:
    assert traced(draft, own, PASSES) is None
