"""Shares with intervals: bootstrap over prompts, exact ones of counts, win rates, and the same at equal length.

Length control follows AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475): a logistic regression

    logit p(a beats b | x) = theta + phi * tanh(d_x / std(d)),        d_x = length(a) - length(b) in characters,

whose length term is then set to zero, so the controlled win rate is sigmoid(theta). Departures: their third term, the
instruction's difficulty, has coefficients fitted over a whole leaderboard and is left out here; and a weak normal prior
of precision `ridge` on both coefficients keeps them finite where one side always wins.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Indel

Numbers = npt.NDArray[np.float64]
LEVEL = 0.95
RIDGE = 0.01
_STEPS = 50
_CLOSE = 1e-10
_HALVINGS = 50


@dataclass(frozen=True, slots=True)
class Estimate:
    value: float
    low: float
    high: float
    n: int
    """Prompts."""

    def row(self) -> dict[str, Any]:
        return asdict(self)


class Bootstrap:
    """Percentile intervals over resampled prompts; the same seed resamples the same way."""

    def __init__(self, resamples: int, seed: int = 0) -> None:
        self._resamples, self._seed = resamples, seed
        self._weights: dict[int, Numbers] = {}

    def weights(self, n: int) -> Numbers:
        """(R, n): how often each prompt is in each resample."""
        if n not in self._weights:
            draws = np.random.default_rng(self._seed).multinomial(n, np.full(n, 1 / n), size=self._resamples)
            self._weights[n] = np.asarray(draws, dtype=np.float64)
        return self._weights[n]

    def mean(self, values: Numbers) -> Estimate | None:
        """The mean of (N,) values, one for each prompt; NaN is left out. None where nothing is left."""
        values = values[~np.isnan(values)]
        return self.of(lambda weights: weights @ values / len(values), len(values))

    def mean_by(self, values: Numbers, groups: Sequence[str]) -> Estimate | None:
        """The mean of (N,) values of which several may belong to one prompt, whose id `groups` (N,) has.

        Prompts are resampled, and all values of a prompt go together. NaN is left out; None where nothing is left.
        """
        kept = ~np.isnan(values)
        prompts, places = np.unique(np.array(groups)[kept], return_inverse=True)
        sums, counts = np.bincount(places, values[kept]), np.bincount(places)
        return self.of(lambda weights: np.asarray((weights @ sums) / (weights @ counts)), len(prompts))

    def of(self, statistic: Callable[[Numbers], Numbers], n: int) -> Estimate | None:
        """`statistic` takes (R, n) weights that sum to n in each row and gives (R,)."""
        if n == 0:
            return None
        (value,) = statistic(np.ones((1, n)))
        low, high = np.quantile(statistic(self.weights(n)), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(float(value), float(low), float(high), n)


def share(k: int, n: int) -> Estimate | None:
    """k of n independent trials, with the exact interval of Clopper and Pearson (1934): the chances at which k or more,
    and k or fewer, would have a probability of 2.5 %. None of no trials."""
    if n == 0:
        return None
    tail = (1 - LEVEL) / 2
    low = 0.0 if k == 0 else _root(lambda p: _at_least(k, n, p) - tail)
    high = 1.0 if k == n else _root(lambda p: _at_least(k + 1, n, p) - (1 - tail))
    return Estimate(k / n, low, high, n)


def _at_least(k: int, n: int, p: float) -> float:
    """The probability of k or more of n."""
    ways = (math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(k, n + 1))
    return math.fsum(math.exp(way + i * math.log(p) + (n - i) * math.log1p(-p)) for i, way in enumerate(ways, start=k))


def _root(rising: Callable[[float], float]) -> float:
    """The zero of a rising function on (0, 1)."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return (low + high) / 2


def preferred(p: Numbers) -> Numbers:
    """1 where the first is preferred, 0 where the second is, half where they tie; NaN stays."""
    return np.asarray((1 + np.sign(p - 0.5)) / 2, dtype=np.float64)


def length_controlled(p: Numbers, longer: Numbers, bootstrap: Bootstrap, ridge: float = RIDGE) -> Estimate | None:
    """The win rate at equal length, from p (N,) and the characters that the first has more; NaN in p is left out.

    None where nothing is left, or where all differences are one and the same length: it cannot be told from quality.
    """
    kept = ~np.isnan(p)
    p, longer = p[kept], longer[kept]
    if len(p) == 0 or (longer.std() == 0 and longer.any()):
        return None
    shape = np.tanh(longer / longer.std()) if longer.any() else np.zeros(len(p))
    return bootstrap.of(lambda weights: _sigmoid(regression(p, shape, weights, ridge)[:, 0]), len(p))


def regression(p: Numbers, x: Numbers, weights: Numbers, ridge: float = RIDGE) -> Numbers:
    """(R, 2): theta and phi that minimise, for each row of weights (R, N), the weighted cross entropy of p (N,) and
    sigmoid(theta + phi * x), plus ridge / 2 * (theta^2 + phi^2). Newton's method with bounded steps."""
    design = np.stack([np.ones_like(x), x])  # (2, N)
    found = np.zeros((len(weights), 2))
    for _ in range(_STEPS):
        q = _sigmoid(found @ design)  # (R, N)
        slope = (weights * (q - p)) @ design.T + ridge * found  # (R, 2)
        spread = weights * q * (1 - q)
        curve = np.einsum("rn,in,jn->rij", spread, design, design) + (ridge + 1e-12) * np.eye(2)
        step = np.linalg.solve(curve, slope[..., None])[..., 0]
        step *= np.minimum(
            1, 2 / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1e-12)
        )  # no leaps into saturation
        found -= step
        if np.abs(step).max() < _CLOSE:
            break
    return found


def _sigmoid(x: Numbers) -> Numbers:
    return np.asarray((1 + np.tanh(x / 2)) / 2, dtype=np.float64)


_LETTERS = 20
"""Fewer letters than this are in no language that could be told."""
_SAMPLE = 2000
_LOOP_WORDS, _LOOP_TIMES, _LOOP_LENGTH = 64, 3, 24
_WORDS = {
    "en": "the of and to in is that for it with as on are this be you not have from by",
    "de": "der die und das ist nicht ein eine zu den mit von für auf sich auch dem es im werden",
    "fr": "le la les et des est une un dans pour que qui sur pas plus ce avec sont vous au",
    "es": "el la los las y de que en un una es por con para se no del como más su",
    "pt": "o a os as e de que em um uma é por com para não se do da como mais",
    "it": "il la i le e di che un una è per con non si del della sono come più anche",
    "nl": "de het een en van is dat niet op te zijn voor met die aan ook als er maar je",
}
_FUNCTION_WORDS = {language: frozenset(words.split()) for language, words in _WORDS.items()}


@dataclass(frozen=True, slots=True)
class Edit:
    unchanged: bool
    """Whether both texts are the same to the letter, but for white space at the ends."""
    ratio: float
    """The server's edit ratio: words inserted or deleted, as a share of both texts' words; 0 same, 1 nothing kept."""
    switched: bool
    """Whether both languages can be told and they differ."""


def edit(before: str, after: str) -> Edit:
    languages = language(before), language(after)
    return Edit(
        unchanged=before.strip() == after.strip(),
        ratio=Indel.normalized_distance(before.split(), after.split()),
        switched=None not in languages and languages[0] != languages[1],
    )


def loops(text: str) -> bool:
    """Whether some run of up to 64 words stands at least three times in a row, in 24 words or more.

    Words are compared to the letter, so a list whose numbers count up is no loop.
    """
    words = text.split()
    ids = {word: number for number, word in enumerate(dict.fromkeys(words))}
    numbers = np.array([ids[word] for word in words])
    longest = min(_LOOP_WORDS, len(words) // _LOOP_TIMES)
    return any(
        _longest_run(numbers[period:] == numbers[:-period]) >= max((_LOOP_TIMES - 1) * period, _LOOP_LENGTH - period)
        for period in range(1, longest + 1)
    )


def _longest_run(flags: npt.NDArray[np.bool_]) -> int:
    """The length of the longest run of true flags, which is the widest gap between two false ones."""
    edges = np.flatnonzero(np.concatenate([[True], ~flags, [True]]))
    return int(np.diff(edges).max()) - 1


def language(text: str) -> str | None:
    """A guess: another script than Latin names itself (CYRILLIC, HAN, ...); among seven languages in Latin letters, the
    one whose commonest words are there most. None where there are too few letters or two languages are as likely.
    """
    letters = [letter for letter in text[:_SAMPLE] if letter.isalpha()]
    if len(letters) < _LETTERS:
        return None
    (script, count), *_ = Counter(map(_script, letters)).most_common(1)
    if script != "LATIN":
        return script if count * 2 > len(letters) else None
    words = re.findall(r"[^\W\d_]+", text[:_SAMPLE].lower())
    found = Counter({name: sum(word in common for word in words) for name, common in _FUNCTION_WORDS.items()})
    (best, most), (_, second) = found.most_common(2)
    return best if most >= 3 and most > second * 1.5 else None


def _script(letter: str) -> str:
    """The letter's script. CJK ideographs and kana are both HAN: Chinese and Japanese are not told apart."""
    name = unicodedata.name(letter, "UNKNOWN").partition(" ")[0].partition("-")[0]
    return "HAN" if name in ("CJK", "HIRAGANA", "KATAKANA") else name
