"""What a Follower thinks of a program: whether it passes its tests, beside programs of its own.

When lessons are made, all these programs run in the sandbox. At run time nothing runs, and the Follower has to judge by
reading. Its own programs stand in its turn; they are written without the draft in sight, because a model that sees a
draft copies its fault.
"""

from collections.abc import Sequence

from slhf.programs import program_of
from slhf.readings import STAYS
from slhf.sandbox import ran
from slhf_training.checks.tests import UnitTestsSettings
from slhf_training.lessons.targets import FENCE, nearest
from slhf_training.lessons.thoughts import CHANGES, Considered


def traced(draft: str, own: Sequence[str], check: UnitTestsSettings) -> Considered | None:
    """Return what to think of the draft beside `own`, the Follower's own answers.

    A draft that fails becomes the own program that passes and keeps most of it. Returns None where the draft or `own`
    has no program, and where the draft fails and no own program passes. Raises SandboxError.
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
