"""A judge with length taken out: the log-odds that the answers' lengths alone predict are subtracted.

    log-odds(first beats second) - slope * log((1 + words of first) / (1 + words of second))

Small judges, and models that learn from them, take longer for better. The slope is given or fitted, by least squares
through the origin on the judge's own log-odds. The fit needs no labels, so it also takes out what length deserves. It
is kept as JSON, and made again where the judge or the pairs have changed.
"""

import json
import logging
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from slhf.json_text import read_json
from slhf_training.config import RelativePath, Section, portable
from slhf_training.data.load import DataSettings, load
from slhf_training.errors import DataError, SettingsError
from slhf_training.preference import Preference, PreferenceSettings, SourceSettings, revisions
from slhf_training.types import Chat, Probabilities, digest, sigmoid

_LOG = logging.getLogger(__name__)
CERTAIN = 1e-6
"""A judge's p is kept this far from 0 and 1, so that log-odds stay finite."""


class FittedSettings(Section):
    pairs: tuple[DataSettings, ...] = Field(min_length=1)
    """Rows with pairs. Which answer is the better one does not matter."""
    file: RelativePath
    """The fit as JSON; it is written where it is missing or was made for another judge or other pairs."""


class WithoutLengthSettings(SourceSettings):
    kind: Literal["without_length"]
    preference: PreferenceSettings
    slope: float | None = None
    """The log-odds that the judge gives to an answer for being e times as long."""
    fitted: FittedSettings | None = None
    """How the slope is fitted, where it is not given."""

    @model_validator(mode="after")
    def _one_slope(self) -> Self:
        if (self.slope is None) == (self.fitted is None):
            raise ValueError("slope or fitted: one of the two")
        return self

    def source(self) -> Preference:
        return without_length_of(self, self.preference.source())


class WithoutLength:
    """A judge without its preference for length; NaN where the judge abstains."""

    def __init__(self, source: Preference, slope: float) -> None:
        self._source, self.slope = source, slope

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        odds = log_odds(self._source(chats, first, second))
        return sigmoid(odds - self.slope * length_ratios(first, second))


def length_ratios(first: Sequence[str], second: Sequence[str]) -> Probabilities:
    """(B,): log-ratios of 1 + words, above 0 where the first answer has more."""
    a, b = (np.array([len(text.split()) for text in side], dtype=np.float64) for side in (first, second))
    return np.asarray(np.log1p(a) - np.log1p(b))


def log_odds(p: Probabilities) -> Probabilities:
    """The log-odds of p in nats, which are finite; NaN stays NaN."""
    kept = np.clip(p, CERTAIN, 1 - CERTAIN)
    return np.asarray(np.log(kept) - np.log1p(-kept))


def fit_slope(odds: Probabilities, ratios: Probabilities) -> tuple[float, float]:
    """Return the slope through the origin of (B,) log-odds over (B,) length ratios, and its standard error.

    Raises DataError where the pairs tell none.
    """
    known = ~np.isnan(odds)
    x, y = ratios[known], odds[known]
    if len(x) < 2 or not x.any():
        raise DataError(f"fitted.pairs: {len(x)} of {len(odds)} pairs were judged, and their lengths tell no slope")
    slope = float(x @ y / (x @ x))
    spread = float(((y - slope * x) ** 2).sum() / (len(x) - 1))
    return slope, float(np.sqrt(spread / (x @ x)))


def without_length_of(settings: WithoutLengthSettings, source: Preference) -> Preference:
    """Make the source; `source` is the judge that `preference` describes.

    Raises DataError, and SettingsError naming a file that cannot be read as a slope.
    """
    if settings.fitted is None:
        assert settings.slope is not None
        return WithoutLength(source, settings.slope)
    return WithoutLength(source, _fitted(settings, settings.fitted, source)["slope"])


def _fitted(settings: WithoutLengthSettings, how: FittedSettings, source: Preference) -> dict[str, Any]:
    judge = [portable(settings.preference), sorted(revisions(settings.preference.model_dump()))]
    name = digest([judge, [portable(data) for data in how.pairs]])
    try:
        known = read_json(how.file.read_bytes()) if how.file.exists() else {}
        if known.get("of") != name:
            known = _fit(how, source) | {"of": name}
            how.file.parent.mkdir(parents=True, exist_ok=True)
            how.file.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        return dict(known)
    except (OSError, ValueError, AttributeError) as exc:
        raise SettingsError(f"fitted.file: {how.file}: {exc}") from exc


def _fit(how: FittedSettings, source: Preference) -> dict[str, Any]:
    examples = [example for data in how.pairs for example in load(data)]
    pairs = [(example.chat, example.pair) for example in examples if example.pair]
    chats = [chat for chat, _ in pairs]
    chosen, rejected = [pair.chosen for _, pair in pairs], [pair.rejected for _, pair in pairs]
    odds = log_odds(source(chats, chosen, rejected))
    slope, error = fit_slope(odds, length_ratios(chosen, rejected))
    found = {"slope": slope, "standard_error": error, "pairs": len(pairs), "judged": int((~np.isnan(odds)).sum())}
    _LOG.info("%s: %s", how.file, found)
    return found
