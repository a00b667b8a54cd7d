"""What a Follower thinks of a program: whether it passes its tests, beside programs of its own.

When lessons are made, all of them run in the sandbox; at run time nothing runs, and the Follower has to know. The own
programs stand in its turn, written without the draft in sight: beside a draft a model copies its fault.
"""

from collections.abc import Sequence

from slhf_training.checks.sandbox import ran
from slhf_training.checks.tests import UnitTestsSettings, program_of
from slhf_training.lessons.targets import FENCE, nearest
from slhf_training.lessons.thoughts import CHANGES, STAYS, Considered


def traced(draft: str, own: Sequence[str], check: UnitTestsSettings) -> Considered | None:
    """`own`: answers. A draft that fails becomes the own program that passes and keeps most of it.

    None where there is no program, or none that passes in place of a draft that fails. Raises SandboxError.
    """
    drafts = program_of(draft, check.entry_point)
    programs = [program for text in own if (program := program_of(text, check.entry_point))]
    if drafts is None or not programs:
        return None
    if ran((drafts, check.setup, check.test_program)):
        return Considered(STAYS, draft, own=tuple(own))
    right = [program for program in programs if ran((program, check.setup, check.test_program))]
    if not right:
        return None
    answer = FENCE.format(code=nearest(draft, right).strip("\n"))
    return Considered(CHANGES, answer, own=tuple(own))
