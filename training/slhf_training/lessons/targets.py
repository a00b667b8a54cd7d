"""Chooses targets: how a reference is written as an answer, and which of several right answers is learnt."""

import ast
from collections.abc import Sequence
from difflib import SequenceMatcher

from slhf_training.checks.registry import CheckSettings
from slhf_training.checks.tests import UnitTestsSettings
from slhf_training.data import Example
from slhf_training.lessons.sampler import passed

FENCE = "```python\n{code}\n```"


def targets_of(examples: Sequence[Example], passing: Sequence[Sequence[str]], references: bool) -> list[str | None]:
    """Return for each example the passing sample nearest to the draft, else its reference if that passes, else None."""
    known = [worded(e.reference, e.check) if references and e.reference else "" for e in examples]
    good = passed(examples, known)
    return [
        nearest(e.draft, texts) if texts else (text if is_good else None)
        for e, texts, text, is_good in zip(examples, passing, known, good, strict=True)
    ]


def worded(reference: str, check: CheckSettings | None) -> str:
    """Return the reference as an answer: code is written in one style, without a fence."""
    text = reference.strip("\n").rstrip()
    return styled(text) if isinstance(check, UnitTestsSettings) else text


def styled(code: str) -> str:
    """Return the code as Python itself prints it, unless it has comments, which that would lose."""
    if "#" in code:
        return code
    try:
        return ast.unparse(ast.parse(code))
    except SyntaxError:
        return code


def nearest(draft: str | None, answers: Sequence[str]) -> str:
    """Return the answer that keeps most of the draft, or without a draft the shortest answer."""
    if draft is None:
        return min(answers, key=len)
    return max(answers, key=lambda answer: SequenceMatcher(None, draft, answer, autojunk=False).ratio())
