"""What a Follower thinks of a program before it answers: what that gives for the example that the prompt shows.

When lessons are made, the draft runs in the sandbox and the value is its own; at run time nothing runs, and the
Follower has to know. A wrong guess of what is written is likelier than a wrong guess of what should be: programs that
pass their example stay.
"""

import ast

from slhf_training.checks.sandbox import ran, value_of
from slhf_training.checks.tests import UnitTestsSettings, program_of
from slhf_training.lessons.thoughts import Considered

_MOST = 300
"""Characters of call, value and result; longer ones are no exercise for a small model."""
_THOUGHTS = "The example: {call}\nThe draft gives: {value}\nIt should be: {wanted}\nIt {verdict}."


def traced(draft: str, check: UnitTestsSettings) -> Considered | None:
    """None where there is no example or no program, or what it gives takes too long to come or to read.

    Raises SandboxError.
    """
    example, program = _comparison(check.example), program_of(draft, check.entry_point)
    if example is None or program is None:
        return None
    call, wanted = example
    value = value_of((program, check.setup), call)
    if value is None or len(call) + len(value) + len(wanted) > _MOST:
        return None
    stays = ran((program, check.setup, check.example))
    verdict = "stays" if stays else "changes"
    thoughts = _THOUGHTS.format(call=call, value=value, wanted=wanted, verdict=verdict)
    return Considered(thoughts, draft if stays else None, doubted=False)


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
