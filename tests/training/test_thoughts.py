"""What a Follower learns to think before it keeps or changes a draft."""

import pytest

from slhf_training.checks.answers import Accepted, AcceptedSettings, Exact, ExactSettings, Number, NumberSettings
from slhf_training.checks.tests import UnitTestsSettings
from slhf_training.lessons.thoughts import considered
from slhf_training.lessons.traced import traced

READ = Number(NumberSettings(kind="number", answer="1")).read
SIX, SEVEN, EIGHT = "3 + 3 = 6", "3 + 4 = 7", "4 + 4 = 8"


@pytest.mark.parametrize(
    ("draft", "own", "answer", "doubted"),
    [
        (SIX, [SIX, SEVEN], SIX, False),
        ("Six? 6.", ["It is 6.0"], "Six? 6.", False),
        (SIX, [SEVEN, SIX], SIX, True),
        (SIX, [SEVEN, EIGHT], SIX, True),
        (SIX, [SEVEN, "So it is 7."], SEVEN, True),
        ("I do not know.", [SEVEN, "So it is 7."], SEVEN, True),
        (SIX, ["Nobody knows.", "Who knows?"], SIX, True),
        ("I do not know.", ["Nobody knows.", SEVEN], "I do not know.", False),
    ],
)
def test_two_answers_that_agree_take_the_drafts_place_and_nothing_else_does(
    draft: str, own: list[str], answer: str, doubted: bool
) -> None:
    found = considered(draft, own, READ)
    assert found is not None
    assert (found.answer, found.doubted) == (answer, doubted)
    target = found.before(answer)
    assert target.text == f"<think>\n{found.thoughts}\n</think>\n{answer}"
    assert [target.text[start:end] for start, end in target.sampled] == own[: len(target.sampled)]


def test_a_doubt_without_a_second_answer_says_nothing() -> None:
    assert considered(SIX, [SEVEN], READ) is None


def test_the_second_answer_is_thought_only_where_the_first_one_doubts() -> None:
    agreed, doubted = considered(SIX, [SIX, SEVEN], READ), considered(SIX, [SEVEN, EIGHT], READ)
    assert agreed is not None
    assert doubted is not None
    assert SEVEN not in agreed.thoughts
    assert doubted.thoughts.index(SEVEN) < doubted.thoughts.index(EIGHT)


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


@pytest.mark.parametrize(
    ("example", "draft", "thought"),
    [
        ("assert f(1) == 2", "def f(x): return x", "gives: 1\nIt should be: 2\nIt changes."),
        ("assert f(1) == 1.0", "def f(x): return x", "gives: 1\nIt should be: 1.0\nIt stays."),
        ("assert f(1) == 2", "```python\ndef f(x): return 2 * x\n```", "gives: 2\nIt should be: 2\nIt stays."),
        ("assert f(1) == 2", "def g(x): return 2", "gives: raises NameError\nIt should be: 2\nIt changes."),
    ],
)
def test_a_programs_thought_is_the_value_that_it_really_gives(example: str, draft: str, thought: str) -> None:
    found = traced(draft, UnitTestsSettings(kind="tests", entry_point="f", test_program="f", example=example))
    assert found is not None
    assert found.thoughts.endswith(f"The draft {thought}")
    assert found.answer == (draft if thought.endswith("stays.") else None)


@pytest.mark.parametrize(
    ("example", "draft"),
    [
        ("", "def f(x): return x"),
        ("assert f(1)", "def f(x): return x"),
        ("f(1) == 1", "def f(x): return x"),
        ("assert f(", "def f(x): return x"),
        ("assert f(1) == 1", "I do not know!"),
        ("assert f(1) == 1", "def f(x): raise SystemExit"),
        ("assert f(1) == 1", "def f(x): return 'x' * 1000"),
    ],
)
def test_without_an_example_a_program_or_a_short_value_there_is_no_thought(example: str, draft: str) -> None:
    check = UnitTestsSettings(kind="tests", entry_point="f", test_program="f", example=example)
    assert traced(draft, check) is None
