"""Whether a program finds instructions followed: p(first beats second) = (1 + f(first) - f(second)) / 2.

f is the share of a chat's instructions that an answer follows, strictly (checks/instructions.py). A verifiable
reward (Tulu 3, arXiv 2411.15124) as a voter: what other voters like must not cost what the user asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from slhf_training.checks.instructions import InstructedRow, follows, row_of, rows_by_prompt
from slhf_training.config import RelativePath, Section
from slhf_training.preference import Preference, Probabilities
from slhf_training.types import Chat


class InstructionsSettings(Section):
    kind: Literal["instructions"]
    files: tuple[RelativePath, ...] = Field(min_length=1)
    """JSONL in IFEval's schema, as `slhf-train instruct` writes it."""


class Instructions:
    """NaN for a chat that is not one of the rows' prompts alone."""

    def __init__(self, rows: Mapping[str, InstructedRow]) -> None:
        self._rows = rows

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        a, b = (np.array(list(map(self._share, chats, answers))) for answers in (first, second))
        return np.asarray((1 + a - b) / 2, dtype=np.float64)

    def _share(self, chat: Chat, answer: str) -> float:
        row = row_of(chat, self._rows)
        if row is None:
            return np.nan
        return float(np.mean(row.followed(answer, follows)))


def instructions_of(settings: InstructionsSettings) -> Preference:
    return Instructions(rows_by_prompt(settings.files, "files"))
