"""What counts as right, kind by kind: answers as models write them."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from slhf.programs import program_of
from slhf_training.checks import Check
from slhf_training.checks.registry import CheckSettings, check_of, passed_all
from slhf_training.errors import SettingsError
from tests.hosts import needs_sandbox


def check(**settings: Any) -> Check:
    return check_of(TypeAdapter[Any](CheckSettings).validate_python(settings))


@pytest.mark.parametrize(
    ("right", "answer"),
    [
        ("16", "The answer is 16."),
        ("16", "A: 16"),
        ("16", "She has 3 + 13 = **16** apples."),
        ("16", "So \\(x = \\boxed{16}\\)."),
        ("16", "$$\\boxed{16\\text{ apples}}$$"),
        ("16", "Final answer: `16`"),
        ("16", "__16__"),
        ("16", "It costs $16.00 in total..."),
        ("16", "It costs \\$16"),
        ("16", "16€"),
        ("16", "about 16%"),
        ("16", "= 16 m^2"),
        ("16", "16 kg of CO2"),
        ("16", "16kg"),
        ("16", "x_1 is 16, which is x_1"),
        ("16", "48/3=16"),
        ("16", "20-4=16"),
        ("16", "(20)-16"),
        ("16", "between 4-16"),
        ("16", "- 16 apples"),
        ("1234", "1,234 people"),
        ("1234", "$1{,}234$"),
        ("1234", "1\N{NO-BREAK SPACE}234"),
        ("1234567", "1,234,567.00"),
        ("3", "1, 2, 3"),
        ("3", "3.0"),
        ("3.0", "3"),
        ("0.5", ".5"),
        ("0.5", "1/2"),
        ("0.5", "\\frac{1}{2}"),
        ("1/2", "0.5"),
        ("-14", "-14"),
        ("-14", "= \N{MINUS SIGN}14."),
        ("-14", "-$14"),
        ("-14", "$-14$"),
        ("5.666667", "5.666666666666667 miles"),
        ("1,000", "1000"),
        ("16", "\N{FULLWIDTH DIGIT ONE}\N{FULLWIDTH DIGIT SIX}"),
    ],
)
def test_the_last_number_is_right(right: str, answer: str) -> None:
    assert check(kind="number", answer=right).passed(answer)


@pytest.mark.parametrize(
    ("right", "answer"),
    [
        ("16", ""),
        ("16", "I cannot say."),
        ("16", "sixteen"),
        ("16", "16 or 17"),
        ("16", "16, no: 61"),
        ("16", "-16"),
        ("16", "160"),
        ("16", "1.6"),
        ("16", "16.5"),
        ("16", "116"),
        ("16", "1,16"),
        ("0.6", "0.64"),
        ("5.666667", "5.66"),
        ("4", "20-4=16"),
        ("1000", "1e3"),
        ("1", "9" * 5000),
        ("1", "1/0 of 2"),
    ],
)
def test_another_last_number_is_wrong(right: str, answer: str) -> None:
    assert not check(kind="number", answer=right).passed(answer)


@pytest.mark.parametrize("right", [16, 16.0, "16"])
def test_a_row_may_give_its_number_as_a_number(right: Any) -> None:
    assert check(kind="number", answer=right).passed("It is 16.")


@pytest.mark.parametrize(
    ("right", "answer"),
    [
        ("Paris", "Paris"),
        ("Paris", "  **Paris**\n\n"),
        ("Paris", "The capital is PARIS."),
        ("Paris", "It is not London. It is Paris (France)."),
        ("Paris", "Let me think.\n\nParis\n\n---\n"),
        ("The Beatles", "It was by Beatles."),
        ("J. K. Rowling", "She wrote it. That was J. K. Rowling."),
        ("J.K. Rowling", "That was JK Rowling."),
        ("Washington, D.C.", "It is Washington, D.C."),
        ("Washington", "He lives in Washington, D.C. and works there."),
        ("U.S.", "It was the US."),
        ("Mr. Bean", "It was Mr. Bean, I think."),
        ("Beyoncé", "It was Beyonce."),
        ("Sao Paulo", "São Paulo!"),
        ("Panic! at the Disco", "The band is Panic! at the Disco."),
        ("Portugal. The Man", "The band is Portugal. The Man."),
        ("Rockefeller", "It was Rockefeller\N{RIGHT SINGLE QUOTATION MARK}s idea."),
        ("1,000", "About 1000 of them."),
        ("Jean-Paul Sartre", "jean paul sartre"),
        ("Vitamin A", "You need vitamin A to see."),
        ("A", "It is type A."),
        ("A Beautiful Mind", "beautiful mind"),
        ("January 17, 2006", "on January\N{NO-BREAK SPACE}17, 2006"),
    ],
)
def test_an_accepted_answer_stands_in_the_last_sentence(right: str, answer: str) -> None:
    assert check(kind="accepted", answers=["Nobody", right]).passed(answer)


@pytest.mark.parametrize(
    ("right", "answer"),
    [
        ("Paris", ""),
        ("Paris", "It is Paris. I hope that this helps!"),
        ("Paris", "Paris\nLondon"),
        ("Paris", "It is one of Paris, London, Rome and Berlin. I would say London."),
        ("Paris", "The Parisians live there."),
        ("New York", "It is York, and it is new."),
        ("Portugal. The Man", "It was Portugal. The Man was nice. So was she."),
        ("---", "---"),
        ("1987", "In 19870."),
        ("Vitamin A", "You need vitamin C to see."),
        ("A", "It is type B."),
    ],
)
def test_an_accepted_answer_elsewhere_is_no_answer(right: str, answer: str) -> None:
    assert not check(kind="accepted", answers=[right]).passed(answer)


@pytest.mark.parametrize(
    ("right", "answer"),
    [
        ("22", "22"),
        ("22", "1 + 21\n= 22\n\n22"),
        ("-14", "So it is\n**\N{MINUS SIGN}14**"),
        ("20559", "20,559."),
        ("22", "$\\boxed{22}$"),
        ("Yes", '"Yes."'),
        ("25.20", "It is\n$25.20"),
        ("copper, forest", "copper,forest"),
        ("copper, forest", "Sorted:\n`copper, forest`"),
        ('["a", "b"]', '```json\n["a",\n "b"]\n```'),
        ('["a", "b"]', '["a","b"]'),
        ("1. glacier\n2. school", "1. glacier\n2. school"),
        ("1. glacier\n2. school", "Here it is:\n\n1. glacier\n2. school\n"),
        ("dinner;desert", "dinner;desert"),
    ],
)
def test_the_answer_or_its_last_lines_are_exactly_right(right: str, answer: str) -> None:
    assert check(kind="exact", answer=right).passed(answer)


@pytest.mark.parametrize(
    ("right", "answer"),
    [
        ("22", ""),
        ("22", "The answer is 22"),
        ("22", "22\nThat is it."),
        ("22", "122"),
        ("Yes", "Yes, she does"),
        ("POCKET", "pocket"),
        ("25.20", "25.2"),
        ("copper, forest", "forest, copper"),
        ("copper, forest", "copper forest"),
        ("dinner;desert", "dinner; desert"),
        ('["a", "b"]', '["b", "a"]'),
        ('["a", "b"]', "a, b"),
        ("1. glacier\n2. school", "2. school"),
        ("1. glacier\n2. school", "glacier\nschool"),
    ],
)
def test_what_is_not_exactly_right_is_wrong(right: str, answer: str) -> None:
    assert not check(kind="exact", answer=right).passed(answer)


SCHEMA = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        ('{"name": "Ada"}', True),
        ('Here:\n```json\n{"name": "Ada"}\n```\nDone.', True),
        ('```\n{"name": "Ada"}', True),
        ('{"name": 1}', False),
        ('{"name": "Ada"', False),
        ('It is {"name": "Ada"}', False),
        ('```json\n{"name": "Ada"}\n```\n```json\n{"name": "Eve"}\n```', False),
        ('{"name": NaN}', False),
        ("[" * 100_000, False),
        ("", False),
    ],
)
def test_the_answer_or_its_one_block_is_valid_against_the_schema(answer: str, passes: bool) -> None:
    assert check(kind="schema", schema=SCHEMA).passed(answer) == passes


def test_what_is_no_schema_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"check\.schema"):
        check(kind="schema", schema={"type": "nothing"})


TITLE = {"kind": "instructions", "instruction_id_list": ["detectable_format:title"], "kwargs": [{}]}


@pytest.mark.parametrize(
    ("answer", "strictly", "loosely"),
    [("<<Cats>>\nThey purr.", True, True), ("**<<Cats>>**\nThey purr.", True, True), ("They purr.", False, False)],
)
def test_instructions_are_followed(answer: str, strictly: bool, loosely: bool) -> None:
    assert check(**TITLE).passed(answer) == strictly
    assert check(**TITLE, loose=True).passed(answer) == loosely


def test_all_instructions_count_and_loosely_a_line_around_them_is_forgiven() -> None:
    both = {
        "kind": "instructions",
        "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
        "kwargs": [{"num_words": None}, {}],
    }
    assert check(**both).passed('"It purrs."')
    assert not check(**both).passed('"Well, it purrs."')
    assert not check(**both).passed('Sure:\n"It purrs."')
    assert check(**both, loose=True).passed('Sure:\n"It purrs."')


CODE = "def add(a, b):\n    return a + b"
TESTS = {"kind": "tests", "entry_point": "add", "test_program": "assert add(1, 2) == 3"}


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        (CODE, CODE),
        (f"Here it is:\n\n```python\n{CODE}\n```\nIt adds.", f"{CODE}\n"),
        (f"```\n{CODE}\n```", f"{CODE}\n"),
        (f"~~~py\n{CODE}\n~~~", f"{CODE}\n"),
        (f"```python\n{CODE}", CODE),
        (f"```python\r\n{CODE}\r\n```".replace("    ", "\t"), f"{CODE}\n".replace("    ", "\t")),
        (f"```python\nold = 1\n```\n```python\n{CODE}\n```\n```python\nprint(add(1, 2))\n```", f"{CODE}\n"),
        (f"```python\n{CODE}\n```\nBetter:\n```python\n{CODE} # new\n```", f"{CODE} # new\n"),
        ("```python\nadd = sum\n```\n```sh\nls\n```", "add = sum\n"),
        ("```python\nclass add: pass\n```", "class add: pass\n"),
        ("```python\nasync def add(): pass\n```", "async def add(): pass\n"),
        (f'````\n{CODE}\n"""\n```\n"""\n````', f'{CODE}\n"""\n```\n"""\n'),
        ("1. First:\n   ```python\n   def add(a, b):\n     return a + b\n   ```", "def add(a, b):\n  return a + b\n"),
        (f"The code:\n{CODE}", None),
        ("", None),
        ("[" * 100_000, None),
    ],
)
def test_the_program_of_an_answer(answer: str, program: str | None) -> None:
    assert program_of(answer, "add") == program


@needs_sandbox
@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        (CODE, True),
        (f"I would write\n```python\n{CODE}\n```", True),
        (CODE.replace("+", "-"), False),
        ("```python\nimport os\nos._exit(0)\n```", False),
        ("I do not know.", False),
        ("", False),
    ],
)
def test_a_program_passes_its_unit_tests(answer: str, passes: bool) -> None:
    assert check(**TESTS).passed(answer) == passes


@needs_sandbox
def test_what_stands_between_program_and_tests_runs_there() -> None:
    program = {"kind": "tests", "entry_point": "Node", "setup": "root = Node(1)", "test_program": "assert root.x == 1"}
    assert check(**program).passed("class Node:\n    def __init__(self, x): self.x = x")


@needs_sandbox
def test_many_are_checked_in_their_own_order() -> None:
    asked = [
        (check(**TESTS), CODE),
        (check(kind="number", answer="1"), "2"),
        (check(**TESTS), "def add(a, b): return 0"),
        (check(kind="number", answer="1"), "1"),
        (check(**TESTS), CODE),
    ]
    checks, answers = zip(*asked, strict=True)
    assert passed_all(checks, answers) == [True, False, False, True, True]
    assert passed_all([], []) == []


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"kind": "guess"}, "kind"),
        ({"kind": "number"}, "answer"),
        ({"kind": "number", "answer": "many"}, "answer"),
        ({"kind": "number", "answer": "1", "tolerance": 1}, "tolerance"),
        ({"kind": "accepted", "answers": []}, "answers"),
        ({"kind": "accepted", "answers": [""]}, r"answers\.0"),
        ({"kind": "exact", "answer": ""}, "answer"),
        ({"kind": "tests", "entry_point": "f"}, "test_program"),
        ({"kind": "instructions", "instruction_id_list": ["a:b"], "kwargs": [{}]}, "no check for a:b"),
        ({**TITLE, "kwargs": []}, "1 instructions and kwargs for 0"),
    ],
)
def test_a_bad_check_is_named(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        check(**settings)
