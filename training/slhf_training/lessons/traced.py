"""What a Follower thinks of a program before it answers: a program of its own, and what both give for the example.

When lessons are made, both run in the sandbox and the values are their own; at run time nothing runs, and the Follower
has to know. Beside a program of its own it sees more of what is wrong with the draft, and what it puts in the draft's
place does not copy that.
"""

import ast
from collections.abc import Sequence

from slhf_training.checks.sandbox import ran, value_of
from slhf_training.checks.tests import UnitTestsSettings, program_of
from slhf_training.lessons.targets import FENCE
from slhf_training.lessons.thoughts import Considered

_MOST = 300
"""Characters of call, value and result; longer ones are no exercise for a small model."""
_VALUES = """
The example: {call} should give {wanted}
Mine gives: {own}
The draft gives: {draft}"""


def traced(draft: str, own: Sequence[str], check: UnitTestsSettings) -> Considered | None:
    """`own`: answers; the first that gives what it should, or else the first, takes a wrong draft's place.

    What decides is the example, and the tests where the prompt shows none. None where there is no program, or what one
    gives takes too long to come or to read. Raises SandboxError.
    """
    drafts = program_of(draft, check.entry_point)
    programs = [program for text in own if (program := program_of(text, check.entry_point))]
    if drafts is None or not programs:
        return None
    tests = check.example or check.test_program
    stays = ran((drafts, check.setup, tests))
    right = (program for program in programs if not stays and ran((program, check.setup, tests)))
    program = next(right, programs[0])
    values = _values(program, drafts, check) if check.example else ""
    if values is None:
        return None
    answer = FENCE.format(code=program.strip("\n"))
    thoughts = f"{answer}{values}\nIt {'stays' if stays else 'changes'}."
    return Considered(thoughts, draft if stays else answer, doubted=False)


def _values(own: str, draft: str, check: UnitTestsSettings) -> str | None:
    """What both programs give for the example."""
    example = _comparison(check.example)
    if example is None:
        return None
    call, wanted = example
    values = [value_of((program, check.setup), call) for program in (own, draft)]
    if None in values or len(call) + len(wanted) + sum(len(value or "") for value in values) > _MOST:
        return None
    return _VALUES.format(call=call, wanted=wanted, own=values[0], draft=values[1])


def _comparison(example: str) -> tuple[str, str] | None:
    """Of `assert call == result` the two sides."""
    try:
        (statement,) = ast.parse(example).body
    except (SyntaxError, ValueError):
        return None
    match statement:
        case ast.Assert(test=ast.Compare(left=call, ops=[ast.Eq()], comparators=[result])):
            return ast.unparse(call), ast.unparse(result)
    return None
