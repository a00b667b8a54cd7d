"""The examples that prompts give of programs: what is read, and what texts do with them in the sandbox."""

import asyncio
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from slhf.errors import SandboxError
from slhf.sandbox import Outcome, confined_by
from slhf_server.loading.run_examples import sandbox_for
from slhf_server.models.requirements.examples import Examples, examples
from slhf_server.models.requirements.requirement import loses, meets, misses
from slhf_server.models.requirements.running import Sandbox
from slhf_server.settings.server import Settings
from tests.hosts import denied, needs_sandbox

MBPP = (
    "Write a function to add.\n\nName the function `add`, with the signature `def add(a, b):`.\n"
    "For example, this must hold: `assert add(1, 2)==3`"
)
HUMAN_EVAL = '''Write the Python function described below.

```python
from typing import List

def strange(numbers: List[int]) -> float:
    """ Say what is strange. It is not easy.
    >>> strange([1, 2])
    0.5
    >>> strange([]) == 0
    True
    strange([3]) ==> 7  # because it is one
    strange([4]) ➞ {'a': [1]}
    """
```'''


def asserted(prompt: str) -> tuple[str, ...]:
    return () if (found := examples(prompt)) is None else found.tests


@pytest.mark.parametrize(
    ("prompt", "name", "tests"),
    [
        (MBPP, "add", ("assert add(1, 2)==3",)),
        (
            HUMAN_EVAL,
            "strange",
            (
                "assert strange([]) == 0",
                "assert (strange([1, 2])) == (0.5)",
                "assert (strange([3])) == (7)",
                "assert (strange([4])) == ({'a': [1]})",
            ),
        ),
        ("Write it.\nassert f(1) == 2\nassert f(2) == 3, 'so'", "f", ("assert f(1) == 2", "assert f(2) == 3, 'so'")),
        ("def f(x): ...\nExample: f(2) returns 4.", "f", ("assert (f(2)) == (4)",)),
        ("def f(x): ...\n1. f(2) should return [1, 2]\n- `f(3)` -> `'a'`", "f",
         ("assert (f(2)) == ([1, 2])", "assert (f(3)) == ('a')")),
        ("def f(x): ...\nf(f(2)) = -1 since it is so", "f", ("assert (f(f(2))) == (-1)",)),
        ("class A: ...\nassert A().f(1) == 2", "A", ("assert A().f(1) == 2",)),
        ("assert sorted(f([2, 1])) == [1, 2]", "f", ("assert sorted(f([2, 1])) == [1, 2]",)),
        ("def g(): ...\ndef f(): ...\nassert f() == 1\nassert f() != g()\nassert g() == 2\nassert f(1) == 1", "f",
         ("assert f() == 1", "assert f(1) == 1")),  # a draft may leave out the other one
        ("assert max(map(lambda x: x, [f(y) for y in range(3)])) == 2", "f",
         ("assert max(map(lambda x: x, [f(y) for y in range(3)])) == 2",)),
        ("assert math.isclose(f(1), Counter('a')['a'])", "f", ("assert math.isclose(f(1), Counter('a')['a'])",)),
        (">>> f(1)\n'a'\n\n>>> f(0.1) == 0.3\nFalse  # floats\n>>> f(2) == 3\n", "f",
         ("assert (f(1)) == ('a')", "assert (f(0.1) == 0.3) == (False)", "assert f(2) == 3")),
        ("def f(x): ...\r\nf(2) -> 3\r\n", "f", ("assert (f(2)) == (3)",)),
        ("def f(x): ...\nThis is not easy.\nf(2) -> 3", "f", ("assert (f(2)) == (3)",)),
    ],
)  # fmt: skip
def test_examples_of_a_program_are_read(prompt: str, name: str, tests: tuple[str, ...]) -> None:
    found = examples(prompt)
    assert found is not None
    assert found.name == name
    assert sorted(found.tests) == sorted(tests)


@pytest.mark.parametrize(
    "prompt",
    [
        "How many?",
        "def is_even(n): ...\nis_even(n) should return True when n is even.",
        "def find(xs, x): ...\nfind(xs, x) returns -1 where x is absent.",
        "`rotate(matrix) -> None`",
        "data = [1, 2]\nassert f(data) == 3",
        "for a, b in cases:\n    assert f(a) == b",
        "assert f(1) == pytest.approx(.3)",
        "assert np.allclose(f(1), 2)",
        "assert depth(Node(1)) == 1",
        "the form `assert f(x) == y`",
        "def add(a, b): return a - b\n\nadd(1, 2) returns -1. It should return 3.",
        "def add(a, b): ...\nadd(1, 2) returns -1, but should return 3.",
        "def add(a, b): ...\nI get:\n>>> add(1, 2)\n-1\nWhat is wrong?",
        "def add(a, b): ...\nThese must not hold:\nassert add(1, 2) == -1",
        "def add(a, b): ...\nCounterexamples:\n- add(1, 2) -> -1",
        "def add(a, b): ...\nadd(1, 2) -> -1\nadd(1, 2) -> 3",
        "Fix this bug.\nassert add(1, 2) == 3",
        "def add(a, b): ...\nprint(add(1, 2)) -> 3",
        ">>> print(add(1, 2))\n3",
        "Print the numbers.\n>>> down(3)\n3",
        ">>> down(3)\n3\n2\n1",
        "def fib(n): ...\nfib(5) -> [0, 1, 1, ...]",
        ">>> fib(5)\n...",
        "def avg(xs): ...\navg([1, 2, 2]) -> 1.67",
        "def f(x): ...\nf(3) -> 1  2  3",
        "def f(x: int) -> int: ...",
        "f(x) -> int",
        "Let f(2) = 4. What is f(3)?",  # in the middle of a sentence
        "def f(): ...\nIt must not hold: `assert f() == 1`",
        "def f(): ...\nThis fails: `assert f() == 1`",
        "def f(): ...\nf() raises ValueError",
        "def f(): ...\nf() returns a list of numbers",
        "def f(): ...\ng(1) -> 2",
        ">>> x = make()\n>>> f(x)\n3",  # without x it means nothing
        "assert x == 1",
        "assert len([]) == 0",
        "assert f(1) ==",
        "assert f(1) == 2; import os",
        "Why is `assert` slow?",
        "def f(): ...\nassert f() == " + "1" * 600,
        "def f(): ...\nassert f() == " + "[" * 240 + "]" * 240,
        "def f(): ...\n" + "f(" * 200 + " -> 1",
        "assert f(1) == 2\n" + "x" * 10_000,
        "assert f(1) == 2 \0",
        "```\n>>> \n```",
        "",
    ],
)
def test_what_is_no_example_or_not_sure_is_not_read(prompt: str) -> None:
    assert asserted(prompt) == ()


def test_no_more_than_some_examples_are_read() -> None:
    assert len(asserted("\n".join(f"assert f({n}) == {n}" for n in range(100)))) == 16


def test_no_line_of_a_hostile_prompt_is_slow_to_read() -> None:
    """Nor does one end the process. A pattern that backtracks without end would never return."""
    for piece in (
        "f(",
        "f()=",
        "-",
        "`",
        "(",
        ")",
        "1. ",
        "example ",
        "f() returns ",
        " ",
        ">>> f(",
        "e.g. ",
        "==",
        "assert f() == -",
        ">>> f() == -",
        "f() -> -",
        "not ",
    ):
        examples("def f(): ...\n" + "\n".join([piece * (480 // len(piece))] * 20))
        examples(f"def f(): ...\n{piece}{piece[-1] * (480 - len(piece))}1\n")


def fenced(program: str) -> str:
    return f"Here it is:\n```python\n{program}\n```\nIt adds."


RIGHT, WRONG, BROKEN = "def add(a, b):\n    return a + b", "def add(a, b):\n    return a - b", "def add(a, b:\n  return"
ENDLESS = "def add(a, b):\n    while True: pass"


def looked(prompt: str, *texts: str, sandbox: Sandbox | None = None) -> Examples:
    found = examples(prompt)
    assert found is not None
    asyncio.run(found.look(sandbox or Sandbox(), texts))
    return found


@needs_sandbox
@pytest.mark.parametrize(
    ("text", "met", "missed"),
    [
        (RIGHT, True, False),
        (fenced(RIGHT), True, False),
        (fenced(WRONG), False, True),
        (WRONG, False, True),
        (fenced(BROKEN), False, True),
        (fenced(WRONG) + fenced(RIGHT), True, False),
        (fenced("def add(a, b):\n    return math.floor(a) + b"), True, False),  # what an answer leaves out is not held
        (f"{fenced(RIGHT)}It is used so:\n{fenced('print(add(1, 2))')}", True, False),
        (fenced("def plus(a, b):\n    return a + b") + fenced("def add(a, b):\n    return plus(a, b)"), True, False),
        (fenced(RIGHT) + "Yours was:" + fenced(WRONG), True, False),
        (fenced(WRONG) + fenced(BROKEN), False, True),
        (f"Here it is:\n\n{RIGHT}\n\nIt adds.", False, False),  # words around it, and no fence
        (BROKEN, False, False),
        (f"import numpy\n{RIGHT}", False, False),  # what is not in the sandbox is nobody's fault
        (f"{RIGHT}\nprint(input())", False, False),
        (f"{RIGHT}\nraise SystemExit(0)", False, False),
        ("import os\ndef add(a, b):\n    os.fork()", False, False),
        ("def add(a, b)\n  a + b\nend", False, False),
        ("```ruby\ndef add(a, b)\n  a + b\nend\n```", False, False),
        ("```py\n" + WRONG + "\n```", False, True),
        ("It adds two numbers.", False, False),
        (fenced("print(1)"), False, False),
        ("Why not `def add(a, b)`?", False, False),
        (fenced(RIGHT.replace("add", "plus")), False, False),
        (f"{RIGHT}\n# {'x' * 20_000}", False, False),
        ("", False, False),
    ],
)
def test_a_program_meets_its_prompts_examples_or_misses_them_or_nothing_is_known(
    text: str, met: bool, missed: bool
) -> None:
    found = looked(MBPP, text)
    assert (found.met(text), found.missed(text)) == (met, missed)
    assert (meets([found], text), misses([found], text)) == (met, missed)


@needs_sandbox
def test_every_example_counts_and_one_program_does_not_know_another() -> None:
    prompt = f"{MBPP}\n`assert add(2, 2) == 4`\n`assert add(1, 1) == 2`"
    guess = "def add(a, b):\n    return {(1, 2): 3, (2, 2): 4}.get((a, b))"
    found = looked(prompt, guess, RIGHT)
    assert (found.missed(guess), found.met(RIGHT)) == (True, True)
    assert loses([found], RIGHT, guess)
    assert not loses([found], guess, RIGHT)


@needs_sandbox
def test_of_a_text_that_was_not_run_nothing_is_known() -> None:
    found = looked(MBPP)
    assert not found.met(RIGHT)
    assert not found.missed(WRONG)


@needs_sandbox
def test_programs_without_end_hold_up_no_thread_that_others_need_and_the_last_of_many_are_not_run() -> None:
    sandbox = Sandbox(seconds=0.5)

    async def beside() -> tuple[list[Outcome | None], bool]:
        asked = [sandbox.outcomes([("while True: pass",)]) for _ in range(40)]
        running = asyncio.gather(*asked)
        await asyncio.sleep(0.05)
        name = await asyncio.to_thread(lambda: threading.current_thread().name)
        early = not running.done()
        assert "sandbox" not in name
        return [end for (end,) in await running], early

    found, early = asyncio.run(beside())
    assert early
    assert set(found) == {"failed", None}


@needs_sandbox
def test_who_leaves_does_not_wait_for_the_program() -> None:
    sandbox = Sandbox(seconds=2)

    async def left() -> None:
        running = asyncio.create_task(sandbox.outcomes([("while True: pass",)]))
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(left())


def test_auto_runs_no_programs_for_other_machines() -> None:
    assert sandbox_for(Settings(run_examples="auto", host="0.0.0.0")) is None


def test_by_default_no_program_is_run() -> None:
    assert Settings().run_examples == "off"
    assert sandbox_for(Settings()) is None


@pytest.mark.parametrize(("said", "read"), [("true", "on"), ("false", "off"), ("auto", "auto")])
def test_the_setting_is_a_switch(said: str, read: str) -> None:
    assert Settings.model_validate({"run_examples": said}).run_examples == read


@needs_sandbox
@pytest.mark.parametrize("said", ["auto", "on"])
def test_all_engines_of_a_process_have_one_sandbox(said: str) -> None:
    settings = Settings.model_validate({"run_examples": said})
    assert sandbox_for(settings) is sandbox_for(settings) is not None


ASK = """
import logging
from slhf_server.loading.run_examples import sandbox_for
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import Settings
logging.basicConfig()
print(sandbox_for(Settings(run_examples="off")), sandbox_for(Settings(run_examples="auto")))
try:
    sandbox_for(Settings(run_examples="on"))
except SettingsError as exc:
    print(exc)
"""


def test_where_no_sandbox_holds_auto_says_so_and_on_refuses_to_start() -> None:
    said = denied(ASK).splitlines()
    assert said[0] == "None None"
    assert said[1].startswith("run_examples: programs cannot run on this host: namespaces: ")
    assert said[2].startswith("WARNING:slhf_server.loading.run_examples:programs are not run on ")
    assert "landlock: " in said[2]


def test_a_host_without_a_sandbox_has_no_sandbox() -> None:
    """So that the other tests here may skip."""
    try:
        confined_by()
    except SandboxError:
        with pytest.raises(SandboxError):
            Sandbox()


@needs_sandbox
def test_all_programs_of_one_text_have_their_turn() -> None:
    endless = [("while True: pass",)] * 5
    assert asyncio.run(Sandbox(seconds=0.3).outcomes([*endless, ("x = 1",)])) == [*["failed"] * 5, "ended"]


@needs_sandbox
def test_a_program_writes_no_file() -> None:
    """Where Landlock is the wall, its folder is the machine's."""
    assert asyncio.run(Sandbox().outcomes([("open('file', 'w').write('x' * 9_000)",)])) == ["unable"]


@needs_sandbox
def test_what_the_sandbox_cannot_do_is_nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert asyncio.run(sandbox.outcomes([("x = 1",)])) == [None]


def test_without_a_temporary_folder_auto_says_so_and_on_refuses() -> None:
    """In a process of its own, because a host is asked once."""
    nowhere = "import tempfile\ntempfile.tempdir = '/nonexistent'\n"
    done = subprocess.run([sys.executable, "-c", nowhere + ASK], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[0] == "None None"
    assert done.stdout.splitlines()[1].startswith("run_examples: programs cannot run on this host: ")
    assert "/nonexistent" in done.stdout


def test_a_prompt_that_python_would_warn_of_is_no_news() -> None:
    reading = "from slhf_server.models.requirements.examples import examples\nprint(examples({!r}).tests[0])"
    prompt = "def f(x): ...\nassert f('\\d') is 1\nassert (f(1), 2)"
    python = [sys.executable, "-W", "always", "-c", reading.format(prompt)]
    done = subprocess.run(python, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("assert f('\\d') is 1\n", "")
