"""What a Follower reads in a draft and in answers of its own, and what a program counts of it."""

from fractions import Fraction

import pytest

from slhf.readings import Readings, better_by, gives, has_readings, result_of, states_result


@pytest.mark.parametrize(
    ("draft", "own", "chosen", "lead"),
    [
        ("6", ["6", "6", "6"], None, -3),
        ("6", ["7"], None, 1),  # one answer is no evidence
        ("6", ["7", "8", "9", None], None, 1),
        ("6", ["7", "7"], 0, 2),
        ("6", ["8", "7", "7"], 1, 2),
        ("6", ["6", "7", "7"], None, 1),
        ("6", ["6", "7", "7", "7"], 1, 2),
        ("6", ["6", "6", "7", "7"], None, 0),
        ("6", ["7", "7", "8", "8"], 0, 2),  # the first of them
        (None, ["7", "7"], 0, 2),
        (None, [None, "7"], None, 1),
        (None, [None, None], None, 0),  # who says nothing agrees with nobody
        ("6", [None, None, None], None, 0),
        ("6", [], None, 0),
    ],
)
def test_two_more_own_answers_than_the_drafts_take_its_place_and_nothing_else_does(
    draft: str | None, own: list[str | None], chosen: int | None, lead: int
) -> None:
    readings = Readings.of(draft, own)
    assert (readings.chosen(), readings.lead) == (chosen, lead)
    assert Readings.parse(readings.text) == readings


@pytest.mark.parametrize(
    ("own", "margin", "chosen", "is_open"),
    [
        (["7", "7", "6", None], 1, 0, False),
        (["7", "7", "6", None], 2, None, True),
        (["7", "8", "8", "8"], 3, 1, False),
        (["7", "8", "8", "8"], 4, None, True),
        (["7", "8", "8", "6"], 4, None, True),
        (["7", "6", None, None], 2, None, False),  # as many give the draft's
        (["6", "6", "6", "7"], 4, None, False),
        ([None, None], 2, None, False),
        ([], 2, None, False),
    ],
)
def test_a_margin_decides_and_below_it_the_question_is_open(
    own: list[str | None], margin: int, chosen: int | None, is_open: bool
) -> None:
    readings = Readings.of("6", own)
    assert (readings.chosen(margin), readings.is_open(margin)) == (chosen, is_open)


def test_further_results_are_counted_with_the_first() -> None:
    readings = Readings.of("6", ["6", "8", "7", "7"]).with_further(["8", "8", "8", None])
    assert readings == Readings.of("6", ["6", "8", "7", "7", "8", "8", "8", None])
    assert (readings.chosen(3), readings.chosen(4)) == (1, None)


def test_their_text_has_a_line_for_each() -> None:
    assert Readings.of("6", ["72", None]).text == "The draft: 6\n[1] 72\n[2] none"


def test_results_are_compared_as_words() -> None:
    """Case, line breaks, and a full stop at the end make no other result; anything else does."""
    readings = Readings.of("New  York.", ["new york", "New\nYork", "NEW YORK ."])
    assert readings.lead == -3
    assert Readings.of("1.5", ["15", "1,5", "1.5."]).lead == 0
    assert Readings.of("None.", ["."]) == Readings(None, (None,))


@pytest.mark.parametrize(
    "thoughts",
    [
        "",
        "It stays.",
        "[1] 6\n[2] 6",
        "The draft: 6\n[2] 6",
        "The draft: 6\n[1] 6\n[1] 6",
        "The draft: 6\n[1] 6\nIt stays.",
        "The draft: 6\n\n[1] 6",
        "The draft 6\n[1] 6",
    ],
)
def test_other_thoughts_are_no_readings(thoughts: str) -> None:
    assert Readings.parse(thoughts) is None


def test_an_empty_result_is_none() -> None:
    assert Readings.parse("\nThe draft: \n[1] \n") == Readings(None, (None,))


def test_results_of_any_length_are_read() -> None:
    long = "word " * 20_000
    assert Readings.parse(Readings.of(long, [long, "other"]).text) == Readings.of(long, [long, "other"])


LONG = "The air scatters blue light more than red light, and so the sky looks blue to everybody who looks up. "


@pytest.mark.parametrize(
    "text",
    [
        f"{LONG}Therefore, the answer is 15.",
        f"{LONG}#### 1,200",
        f"{LONG}\\[ x = \\boxed{{4}} \\]",
        f"{LONG}She pays $3.50. Let me know if you have further questions!",  # a courtesy may follow
        f"{LONG}**12 apples**\n\n---\n",  # and signs without a word
        f"{LONG}答案是 8。",
        "Paris",
        "no",
        "The capital of France is Paris.",
    ],
)
def test_a_result_is_a_number_at_the_end_or_a_few_words(text: str) -> None:
    assert states_result(text)


@pytest.mark.parametrize(
    "text",
    [
        LONG,
        f"In 1879 he was born. {LONG}It is so. Is it not?",
        f"1. Wash it.\n2. {LONG}\nThat is all.\nEnjoy the tea.",
        "def f(words):\n    found = [word for word in words if word in set(words)]\n    for word in words:\n"
        "        found.append(word)\n    return found",
        "",
        " \n\t",
        "...",
    ],
)
def test_other_texts_state_none(text: str) -> None:
    assert not states_result(text)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (f"{LONG}Therefore, the answer is 15.", Fraction(15)),
        (f"{LONG}#### 1,200", Fraction(1200)),
        (f"{LONG}\\[ x = \\boxed{{4}} \\]", Fraction(4)),
        (f"{LONG}She pays $3.50. Let me know if you have further questions!", Fraction(7, 2)),
        ("7 days have 168 hours.", Fraction(168)),
        ("-3", Fraction(-3)),
        ("Paris.", "paris"),
        ("The  capital is\nParis", "the capital is paris"),
        (LONG, None),
        (f"9\n{LONG * 12}", None),
        ("", None),
        ("...", None),
    ],
)
def test_what_a_text_states(text: str, result: Fraction | str | None) -> None:
    assert result_of(text) == result
    assert states_result(text) == (result is not None)


@pytest.mark.parametrize(
    ("text", "result", "given"),
    [
        ("So she has 12 apples.", Fraction(12), True),
        ("12.0", Fraction(12), True),
        ("12 of the 13 are left, and so 1 is gone.", Fraction(12), False),
        ("The capital of France is Paris.", "paris", True),
        ("PARIS", "paris", True),
        ("Parisian", "paris", False),
        ("", "paris", False),
        ("", Fraction(0), False),
    ],
)
def test_an_answer_gives_a_result_as_its_last_number_or_in_words(
    text: str, result: Fraction | str, given: bool
) -> None:
    assert gives(text, result) == given


OLD, NEW = "So she has 6.", "So she has 7."


@pytest.mark.parametrize(
    ("old", "new", "own", "p"),
    [
        (OLD, NEW, ["7", "It is 7.", "7", "7"], 5 / 6),
        (OLD, NEW, ["6", "6", "6", "7"], 2 / 6),
        (OLD, NEW, ["6", "7"], 1 / 2),
        (OLD, NEW, ["7", "8", "9"], 2 / 3),  # who gives another result counts for neither
        (OLD, NEW, ["8", "9"], None),
        (OLD, NEW, [], None),
        (OLD, "Six times one is 6.0.", ["6", "6"], None),
        (OLD, LONG, ["6", "6"], None),
        ("", NEW, ["7", "7"], None),
        ("She has 1,200.", "It is 1300", ["#### 1200", "$1200.00", "\\boxed{1200}", "1300"], 2 / 6),
        ("Paris", "Lyon.", ["The capital is Lyon.", "LYON", "It is Paris, not Lyon.", "I do not know."], 3 / 4),
        (OLD, "many", ["6", "6", "many", "none"], 2 / 5),
    ],
)
def test_of_two_results_the_one_that_more_answers_give_is_better(
    old: str, new: str, own: list[str], p: float | None
) -> None:
    """By the rule of succession, and one minus it the other way round."""
    assert better_by(own, old, new) == (None if p is None else pytest.approx(p))
    assert better_by(own, new, old) == (None if p is None else pytest.approx(1 - p))


def test_a_long_text_is_read_at_its_end() -> None:
    assert not states_result("9 " * 1_000_000 + LONG * 10)
    assert states_result("a " * 1_000_000 + "9")


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("72000", "He makes $72,000 a year."),
        ("$72,000", "He makes $72,000 a year."),
        ("72000", "72000.00"),
        ("New York", "It is new  york."),
        ("no", "No, it is not."),
        ("8", "答案是 8。"),
        ("-3", "x = -3"),
    ],
)
def test_a_result_that_stands_in_its_text_is_heard(result: str, text: str) -> None:
    assert Readings.of(result, [result]).heard(text, [text]) == Readings.of(result, [result])


@pytest.mark.parametrize(
    ("result", "text"), [("2", "12 or 20"), ("no", "Nobody knows."), ("7", "It is eight."), ("1,2", "12")]
)
def test_a_result_that_an_own_answer_does_not_have_is_none(result: str, text: str) -> None:
    assert Readings.of(None, [result]).heard("", [text]) == Readings.of(None, [None])


def test_where_the_draft_does_not_have_its_result_nothing_is_heard() -> None:
    """Two own answers would outvote what nobody has said."""
    assert Readings.of("7", ["8", "8"]).heard("Eight.", ["8", "8"]) is None
    assert Readings.of(None, ["8", "8"]).heard("Eight.", ["8", "8"]) == Readings.of(None, ["8", "8"])


@pytest.mark.parametrize(
    "text", ["I apologize for the confusion. The draft: no.", "The draft: 6\n[1] 72", "<b>It stays.</b>"]
)
def test_an_answer_in_the_followers_words_is_known(text: str) -> None:
    assert has_readings(text)


@pytest.mark.parametrize("text", ["Seven.", "The draft says no.", "it stays. Or not."])
def test_other_answers_are_not_in_the_followers_words(text: str) -> None:
    assert not has_readings(text)
