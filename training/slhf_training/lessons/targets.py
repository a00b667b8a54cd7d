"""How a reference reads as an answer, and which of several right answers is learnt."""

import ast
from collections.abc import Sequence
from difflib import SequenceMatcher

from slhf_training.checks.registry import CheckSettings
from slhf_training.checks.tests import UnitTestsSettings

FENCE = "```python\n{code}\n```"


def worded(reference: str, check: CheckSettings | None) -> str:
    """A reference as an answer: code is in one style, without a fence."""
    text = reference.strip("\n").rstrip()
    return styled(text) if isinstance(check, UnitTestsSettings) else text


def styled(code: str) -> str:
    """As Python itself prints it, unless that loses comments."""
    if "#" in code:
        return code
    try:
        return ast.unparse(ast.parse(code))
    except SyntaxError:
        return code


def nearest(draft: str | None, answers: Sequence[str]) -> str:
    """The answer that keeps most of the draft; without one, the shortest."""
    if draft is None:
        return min(answers, key=len)
    return max(answers, key=lambda answer: SequenceMatcher(None, draft, answer, autojunk=False).ratio())
