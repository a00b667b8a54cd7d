"""Callables, mixtures, votes and orders, with values that follow by hand; and the registry of sources."""

import importlib
import math
import pkgutil
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from slhf_training import preference
from slhf_training.errors import JudgeError, SettingsError
from slhf_training.preference import SOURCES, Preference, PreferenceSettings, SourceSettings, both_orders, preference_of
from slhf_training.preference.mixture import Mixture
from slhf_training.reward.model import vote
from slhf_training.types import Chat, Message, Probabilities, sigmoid

CHAT: Chat = [Message(role="user", content="Say it")]
DESIGN = Path(__file__).resolve().parents[2] / "docs" / "design.md"
HERE = "tests.training.test_preference_sources"
SETTINGS: TypeAdapter[Any] = TypeAdapter(PreferenceSettings)


def source(**settings: Any) -> Preference:
    return preference_of(SETTINGS.validate_python(settings))


def constant(*p: float) -> Preference:
    return lambda chats, first, second: np.array(p)


def fewer_letters(chats: Sequence[Chat], answers: Sequence[str]) -> list[float]:
    """An empty answer has no score."""
    return [-len(answer) if answer else math.nan for answer in answers]


def first_is_longer(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
    return np.array([float(len(a) > len(b)) for a, b in zip(first, second, strict=True)])


def out_of_range(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> list[float]:
    return [1.5] * len(chats)


def too_few(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> list[float]:
    return []


def test_each_source_has_its_line_of_the_registry() -> None:
    """By its `kind`; a source that is not in SOURCES, or under another name, is seen here."""
    found = {}
    for module in pkgutil.iter_modules(preference.__path__):
        for name, one in vars(importlib.import_module(f"{preference.__name__}.{module.name}")).items():
            here = isinstance(one, type) and one.__module__ == f"{preference.__name__}.{module.name}"
            if here and issubclass(one, SourceSettings):
                (kind,) = get_args(one.model_fields["kind"].annotation)
                found[kind] = f"{module.name}.{name}"
    assert found == dict(SOURCES)


def test_each_source_has_its_row_in_the_design() -> None:
    section = DESIGN.read_text(encoding="utf-8").split("\n### Preferences\n")[1].split("\n### ")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)) == SOURCES.keys()


def test_attributes_vote_with_half_votes_for_ties() -> None:
    """Of four attributes: two won, one tied, one lost: 2.5 / 4; swapped 1.5 / 4. An unread answer has no vote."""
    a, b = np.array([[1.0, 1], [2, 1], [3, 1], [0, 1]]), np.array([[0.0, 1], [1, 1], [3, 1], [5, math.nan]])
    assert vote(a, b) == pytest.approx([0.625, math.nan], nan_ok=True)
    assert vote(b, a) == pytest.approx([0.375, math.nan], nan_ok=True)


def test_a_soft_vote_is_the_attributes_probability() -> None:
    """Scores that are apart by log 3, log 9 and nothing: (3/4 + 1/10 + 1/2) / 3."""
    a, b = np.array([[math.log(3)], [0.0], [2.0]]), np.array([[0.0], [math.log(9)], [2.0]])
    assert vote(a, b, "soft") == pytest.approx([0.45])
    assert vote(b, a, "soft") == pytest.approx([0.55])


def test_the_logistic_function_does_not_overflow() -> None:
    assert sigmoid(np.array([-1e4, 0, 1e4, math.nan])) == pytest.approx([0, 0.5, 1, math.nan], nan_ok=True)


def test_a_callable_is_found_by_its_name() -> None:
    asked = source(kind="callable", function=f"{HERE}:first_is_longer")
    assert asked([CHAT] * 2, ["aa", "a"], ["b", "bb"]) == pytest.approx([1, 0])


def test_scores_of_a_callable_are_compared() -> None:
    asked = source(kind="callable", function=f"{HERE}:fewer_letters", gives="scores")
    p = asked([CHAT] * 4, ["a", "aa", "aa", ""], ["bb", "b", "bb", "b"])
    assert p == pytest.approx([1, 0, 0.5, math.nan], nan_ok=True)


@pytest.mark.parametrize("function", ["out_of_range", "too_few"])
def test_a_callable_that_gives_no_probabilities_stops_the_run(function: str) -> None:
    with pytest.raises(JudgeError, match=f"{function} gave no 1 probabilities"):
        source(kind="callable", function=f"{HERE}:{function}")([CHAT], ["a"], ["b"])


@pytest.mark.parametrize("function", ["no.such.module:f", f"{HERE}:no_such_function", f"{HERE}:HERE"])
def test_a_callable_that_is_not_there_is_named(function: str) -> None:
    with pytest.raises(SettingsError, match=f"function: {function}"):
        source(kind="callable", function=function)


def test_a_mixture_weighs_its_sources_and_passes_over_those_that_abstain() -> None:
    """(3 * 0.9 + 1 * 0.1) / 4 = 0.7; then the second source alone; then nobody."""
    mixed = Mixture([(3, constant(0.9, math.nan, math.nan)), (1, constant(0.1, 0.2, math.nan))])
    assert mixed([CHAT] * 3, ["a"] * 3, ["b"] * 3) == pytest.approx([0.7, 0.2, math.nan], nan_ok=True)


def test_a_mixture_that_votes_counts_sides() -> None:
    """0.9 and 0.6 are a vote each for the first, 0.1 one against it, 0.5 half a vote."""
    voting = Mixture([(1, constant(0.9, 0.5)), (1, constant(0.6, 0.9)), (2, constant(0.1, math.nan))], vote=True)
    assert voting([CHAT] * 2, ["a"] * 2, ["b"] * 2) == pytest.approx([0.5, 0.75])


def test_mixtures_are_configured_with_sources_inside() -> None:
    shorter = {"kind": "callable", "function": f"{HERE}:fewer_letters", "gives": "scores"}
    longer = {"kind": "callable", "function": f"{HERE}:first_is_longer"}
    inner = {"kind": "mixture", "sources": [{"preference": longer}]}
    asked = source(kind="mixture", sources=[{"preference": shorter, "weight": 3}, {"preference": inner}])
    assert asked([CHAT] * 2, ["a", "aa"], ["bb", "b"]) == pytest.approx([0.75, 0.25])


def test_asking_in_both_orders_takes_out_the_place() -> None:
    """A tie that the function gives to the second becomes one: (0 + 1 - 0) / 2."""
    p = both_orders(first_is_longer)([CHAT] * 3, ["a", "aa", "a"], ["b", "b", "bb"])
    assert p == pytest.approx([0.5, 1, 0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "oracle"}, "kind"),
        ({"kind": "callable", "function": "no colon"}, "function"),
        ({"kind": "callable", "function": "a:b", "colour": 1}, "colour"),
        ({"kind": "mixture", "sources": []}, "sources"),
        ({"kind": "judge", "url": "ftp://x", "model": "m"}, "url"),
        ({"kind": "judge", "url": "http://x", "model": "m", "most_failures": 2}, "most_failures"),
    ],
)
def test_a_bad_source_names_its_key(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SETTINGS.validate_python(settings)
