"""Prefers the answer that a program finds right, or that follows more instructions: no policy can learn to please it.

`checked`: p = 1 where only the first passes its check, 0 where only the second does. Where both or neither pass, `tie`
decides. This is a verifiable reward (Tulu 3, arXiv 2411.15124).

`instructions`: p(first beats second) = (1 + f(first) - f(second)) / 2, with f the share of a chat's instructions that
an answer follows, strictly (checks/instructions.py). It is a voter for what was asked for, which other voters may not
see.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import numpy as np
from pydantic import Field

from slhf.sandbox import confined_by
from slhf_training.checks import Check
from slhf_training.checks.instructions import InstructedRow, follows
from slhf_training.checks.registry import check_of, passed_all
from slhf_training.checks.tests import UnitTests
from slhf_training.config import RelativePath
from slhf_training.data.load import DataSettings, load
from slhf_training.errors import SettingsError
from slhf_training.instructions import row_of, rows_by_prompt
from slhf_training.preference import Preference, PreferenceSettings, SourceSettings
from slhf_training.types import Chat, ChatKey, Probabilities, chat_key


class InstructionsSettings(SourceSettings):
    kind: Literal["instructions"]
    files: tuple[RelativePath, ...] = Field(min_length=1)
    """JSONL in IFEval's schema, as `slhf-train add-instructions` writes it."""

    def source(self) -> Preference:
        return instructions_of(self)


class FollowedShare:
    """It abstains (NaN) from a chat that is not one of the rows' prompts alone."""

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
    return FollowedShare(rows_by_prompt(settings.files, "files"))


Tie = Literal["half", "shorter", "abstain"]


class CheckedSettings(SourceSettings):
    kind: Literal["checked"]
    data: tuple[DataSettings, ...] = Field(min_length=1)
    """Rows with a `check` (or of a `format` that makes one); others are passed over."""
    tie: Tie | PreferenceSettings = "half"
    """What decides where both pass or neither does: 0.5 each, fewer characters, NaN, or another source."""

    def source(self) -> Preference:
        return checked_of(self)


_REMEMBERED = 4096
"""Verdicts. The log of a step asks for those that its judge gave, and unit tests take a second."""


class CheckedPreference:
    """Implements `Preference` and `Verifying`. It abstains (NaN) from a chat without a check."""

    def __init__(self, checks: Mapping[ChatKey, Check], tie: Preference) -> None:
        self._checks, self._tie = checks, tie
        self._verdicts: dict[tuple[ChatKey, str], float] = {}

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        a, b = np.split(self.right([*chats, *chats], [*first, *second]), 2)
        p: Probabilities = (1 + a - b) / 2  # NaN stays NaN
        ties = np.flatnonzero(a == b)
        if len(ties):
            p[ties] = self._tie([chats[i] for i in ties], [first[i] for i in ties], [second[i] for i in ties])
        return p

    def right(self, chats: Sequence[Chat], answers: Sequence[str]) -> Probabilities:
        """Each answer is checked once."""
        asked = [*zip(map(chat_key, chats), answers, strict=True)]
        new = [pair for pair in dict.fromkeys(asked) if pair[0] in self._checks and pair not in self._verdicts]
        found = passed_all([self._checks[chat] for chat, _ in new], [answer for _, answer in new])
        known = self._verdicts | dict(zip(new, map(float, found), strict=True))
        self._verdicts = dict([*known.items()][-_REMEMBERED:])
        return np.array([known.get(pair, np.nan) for pair in asked], dtype=np.float64)


def half(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
    return np.full(len(chats), 0.5)


def abstain(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
    return np.full(len(chats), np.nan)


def shorter(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
    a, b = (np.array([len(answer) for answer in side]) for side in (first, second))
    return np.asarray((1 + np.sign(b - a)) / 2, dtype=np.float64)


TIES: Final[Mapping[Tie, Preference]] = {"half": half, "shorter": shorter, "abstain": abstain}


def checked_of(settings: CheckedSettings) -> Preference:
    """Make the source.

    Raises SettingsError where no row has a check, and SandboxError where unit tests cannot run on this host.
    """
    rows = [example for data in settings.data for example in load(data)]
    checks = {chat_key(example.chat): check_of(example.check) for example in rows if example.check is not None}
    if not checks:
        raise SettingsError("data: no row has a check")
    if any(isinstance(check, UnitTests) for check in checks.values()):
        confined_by()
    return CheckedPreference(checks, TIES[settings.tie] if isinstance(settings.tie, str) else settings.tie.source())
