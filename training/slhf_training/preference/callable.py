"""A Python function that the configuration names, for programmatic preferences and verifiable rewards."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from slhf_training.errors import JudgeError, SettingsError
from slhf_training.preference import Preference, SourceSettings
from slhf_training.types import Chat, Probabilities


class CallableSettings(SourceSettings):
    kind: Literal["callable"]
    function: str = Field(pattern=r"^[\w.]+:[\w.]+$")
    """`package.module:function`, importable where the command runs."""
    gives: Literal["preference", "scores"] = "preference"
    """`preference`: the function is a Preference. `scores`: it is called with (chats, answers) and gives a number each;
    the higher one wins, equal ones tie, and NaN abstains."""

    def source(self) -> Preference:
        return callable_of(self)


class ValidatedPreference:
    """A function's preferences. Raises JudgeError where they are not (B,) probabilities."""

    def __init__(self, function: Preference, name: str) -> None:
        self._function, self._name = function, name

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        p = np.asarray(self._function(chats, first, second), dtype=np.float64)
        if p.shape != (len(chats),) or not (np.isnan(p) | ((p >= 0) & (p <= 1))).all():
            raise JudgeError(f"{self._name} gave no {len(chats)} probabilities: {p}")
        return p


class ByScore:
    """The answer with the higher score wins; equal scores tie, and NaN abstains."""

    def __init__(self, score: Callable[[Sequence[Chat], Sequence[str]], Any]) -> None:
        self._score = score

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        a = np.asarray(self._score(chats, first), dtype=np.float64)  # (B,)
        b = np.asarray(self._score(chats, second), dtype=np.float64)
        p: Probabilities = np.where(np.isnan(a) | np.isnan(b), np.nan, ((a > b) + 0.5 * (a == b)))
        return p


def callable_of(settings: CallableSettings) -> Preference:
    """Make the source. Raises SettingsError where there is no such function."""
    module, _, path = settings.function.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as exc:
        raise SettingsError(f"function: {settings.function}: {exc}") from exc
    if not callable(found):
        raise SettingsError(f"function: {settings.function} is not callable")
    return ValidatedPreference(ByScore(found) if settings.gives == "scores" else found, settings.function)
