"""What a Follower learns to think before it keeps or changes a draft."""

import pytest

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
        (SIX, [SIX, SEVEN, SEVEN], SIX, False),
        ("Six? 6.", ["It is 6.0"], "Six? 6.", False),
        (SIX, [SEVEN, SIX, SEVEN], SIX, True),
        (SIX, [SEVEN, EIGHT, SIX], SIX, True),
        (SIX, [SEVEN, EIGHT, NINE], SIX, True),
        (SIX, [SEVEN, "So it is 7."], SEVEN, True),
        (SIX, [SEVEN, EIGHT, "So it is 7."], SEVEN, True),
        (SIX, [SEVEN, EIGHT, "So it is 8."], EIGHT, True),
        (SIX, [SEVEN, EIGHT, NINE, SEVEN], SIX, True),
        ("I do not know.", [SEVEN, "So it is 7."], SEVEN, True),
        (SIX, ["Nobody knows.", "Who knows?", "Not I."], SIX, True),
        ("I do not know.", ["Nobody knows.", SEVEN], "I do not know.", False),
    ],
)
def test_two_answers_that_agree_take_the_drafts_place_and_nothing_else_does(
    draft: str, own: list[str], answer: str, doubted: bool
) -> None:
    found = considered(draft, own, READ)
    assert found is not None
    assert (found.answer, found.doubted) == (answer, doubted)
    assert found.before(answer).text == f"<think>\n{found.thoughts}\n</think>\n{answer}"
    assert found.before(None).text == f"<think>\n{found.thoughts}\n</think>"


def test_its_own_first_answer_alone_is_what_a_model_would_write_anyway() -> None:
    """A second one that stands after it would be a copy."""
    found = considered(SIX, [SEVEN, EIGHT, SEVEN], READ)
    assert found is not None
    target = found.before(SEVEN)
    assert [target.text[start:end] for start, end in target.sampled] == [SEVEN]
    assert target.sampled[0][0] < target.text.index(EIGHT) < target.text.rindex(SEVEN)


@pytest.mark.parametrize("own", [[], [SEVEN], [SEVEN, EIGHT]])
def test_a_doubt_that_too_few_answers_settle_says_nothing(own: list[str]) -> None:
    assert considered(SIX, own, READ) is None


def test_another_answer_is_thought_only_where_those_before_decide_nothing() -> None:
    agreed, settled = considered(SIX, [SIX, SEVEN, EIGHT], READ), considered(SIX, [SEVEN, SEVEN, EIGHT], READ)
    assert agreed is not None
    assert settled is not None
    assert SEVEN not in agreed.thoughts
    assert EIGHT not in settled.thoughts


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
        ("assert f(1) == 2", "def f(x): return x", "should give 2\nMine gives: 2\nThe draft gives: 1\nIt changes."),
        ("assert f(1) == 1.0", "def f(x): return x", "should give 1.0\nMine gives: 2\nThe draft gives: 1\nIt stays."),
        (
            "assert f(1) == 2",
            "```python\ndef f(x): return 3 - x\n```",
            "should give 2\nMine gives: 2\nThe draft gives: 2\nIt stays.",
        ),
        (
            "assert f(1) == 2",
            "def g(x): return 2",
            "should give 2\nMine gives: 2\nThe draft gives: raises NameError\nIt changes.",
        ),
    ],
)
def test_a_programs_thought_is_the_values_that_it_and_ones_own_really_give(
    example: str, draft: str, thought: str
) -> None:
    found = traced(draft, [OWN], _tests(example))
    assert found is not None
    assert found.thoughts == f"{FENCED}\nThe example: f(1) {thought}"
    assert found.answer == (draft if thought.endswith("stays.") else FENCED)
    assert found.before(found.answer).sampled == ()  # beside a draft a model would not write it


def test_an_own_program_that_gives_what_it_should_takes_a_wrong_drafts_place_before_others() -> None:
    found = traced("def f(x): return x", ["def f(x): return 7", OWN], _tests("assert f(1) == 2"))
    assert found is not None
    assert found.answer == FENCED


@pytest.mark.parametrize(("draft", "verdict"), [("def f(x): return x + x", "stays"), ("def f(x): return x", "changes")])
def test_where_the_prompt_shows_no_example_the_tests_decide_and_no_values_are_thought(draft: str, verdict: str) -> None:
    tests = UnitTestsSettings(kind="tests", entry_point="f", test_program="assert f(1) == 2")
    found = traced(draft, ["def f(x): return 7", OWN] if verdict == "changes" else [OWN], tests)
    assert found is not None
    assert found.thoughts == f"{FENCED}\nIt {verdict}."
    assert found.answer == (draft if verdict == "stays" else FENCED)


@pytest.mark.parametrize(
    ("example", "draft", "own"),
    [
        ("assert f(1)", "def f(x): return x", [OWN]),
        ("f(1) == 1", "def f(x): return x", [OWN]),
        ("assert f(", "def f(x): return x", [OWN]),
        ("assert f(1) == 1", "I do not know!", [OWN]),
        ("assert f(1) == 1", "def f(x): raise SystemExit", [OWN]),
        ("assert f(1) == 1", "def f(x): return 'x' * 1000", [OWN]),
        ("assert f(1) == 1", "def f(x): return x", []),
        ("assert f(1) == 1", "def f(x): return x", ["I do not know!"]),
        ("assert f(1) == 1", "def f(x): return x", ["def f(x): return 'x' * 1000"]),
    ],
)
def test_without_two_programs_and_short_values_of_a_comparison_there_is_no_thought(
    example: str, draft: str, own: list[str]
) -> None:
    assert traced(draft, own, _tests(example)) is None


def _tests(example: str) -> UnitTestsSettings:
    return UnitTestsSettings(kind="tests", entry_point="f", test_program="f", example=example)
