"""What a rule would have returned and spent, told from rounds that were all written: nothing is generated for it.

A rule sees what the server's would see by then: the finished rounds, and the deciding judge's p of a later text against
an earlier one.

A round is *useful* where its text is better than every text before it. A rule loses such a round where it returns an
earlier text. A threshold is chosen so that at most a share alpha of the useful rounds of further prompts is lost, in
expectation: (lost + 1) / (useful + 1) <= alpha, conformal risk control (Angelopoulos et al. 2022, arXiv 2208.02814,
equation 4) for a loss that is 0 or 1. Its loss must not fall as the threshold gets more drastic, which holds for stop
rules and nearly for margins. With alpha = .05 it takes 19 useful rounds before any threshold is chosen.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from slhf_training.evaluation.statistics import Numbers, edit

MARGIN = 0.6
"""With what p a later text wins where a rule has no threshold of its own; so does the server."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A draft and its k rounds."""

    texts: tuple[str, ...]
    """(k + 1,): the draft first."""
    p: Numbers
    """(k + 1, k + 1): p[new, old] that the deciding judge prefers text `new` to the earlier `old`; NaN: it abstains."""
    right: Numbers
    """(k + 1,): 1 where a program finds the text right, 0 where wrong; NaN where none looks."""
    held_out: Numbers
    """(k + 1, k + 1): p by the judge that measures; NaN where it was not asked, too."""

    @property
    def rounds(self) -> int:
        return len(self.texts) - 1

    def wins(self, new: int, old: int, margin: float) -> bool:
        """Whether the judge prefers the later text by the margin. A text beats no text that is the same."""
        return self.texts[new] != self.texts[old] and bool(self.p[new, old] >= margin)

    def repeats(self, round_: int) -> bool:
        """Whether a round returned its draft to the letter: what is known of that text holds, and nobody is asked."""
        return self.texts[round_] == self.texts[round_ - 1]

    def changed(self, round_: int) -> float:
        """The edit ratio of a round."""
        return edit(self.texts[round_ - 1], self.texts[round_]).ratio

    def useful(self) -> list[int]:
        """The rounds that are better than every text before them, by the program or else by the judge that measures."""
        numbers = range(1, len(self.texts))
        if not np.isnan(self.right[0]):
            return [number for number in numbers if self.right[number] == 1 and not self.right[:number].any()]
        return [number for number in numbers if (self.held_out[number, :number] >= MARGIN).all()]


@dataclass(frozen=True, slots=True)
class Outcome:
    returned: int
    """Which text; 0: the draft."""
    rounds: int
    """Rounds that ran."""
    asked: tuple[tuple[int, int], ...] = ()
    """Verdicts that the judge was asked for: (new, old)."""


Rule = Callable[[Trajectory], Outcome]


def last(written: Trajectory, rounds: int) -> Outcome:
    """No rule: so many rounds, and the last one's text."""
    return Outcome(rounds, rounds)


def unchanged(written: Trajectory) -> Outcome:
    """The first round that returns its draft to the letter is the last."""
    return _first(written, written.repeats)


def small_edit(written: Trajectory, edit_ratio: float) -> Outcome:
    """The first round that changes no more than that share of the words is the last."""
    return _first(written, lambda round_: written.changed(round_) <= edit_ratio)


def no_gain(written: Trajectory) -> Outcome:
    """The first round that does not beat the text before it is the last, and that text is returned."""
    for round_ in range(1, written.rounds + 1):
        if not written.wins(round_, round_ - 1, MARGIN):
            return Outcome(round_ - 1, round_, _asked(written, [(n, n - 1) for n in range(1, round_ + 1)]))
    return Outcome(written.rounds, written.rounds, _asked(written, [(n, n - 1) for n in range(1, written.rounds + 1)]))


def judge_sure(written: Trajectory, p: float) -> Outcome:
    """The first round that the judge prefers to the best before it with at least p is the last. Nobody is asked of a
    round that no other would follow."""
    best = 0
    asked = []
    for round_ in range(1, written.rounds):
        if written.repeats(round_):
            continue
        asked.append((round_, best))
        if written.wins(round_, best, p):
            return Outcome(round_, round_, _asked(written, asked))
        if written.wins(round_, best, MARGIN):
            best = round_
    return Outcome(written.rounds, written.rounds, _asked(written, asked))


def select(written: Trajectory, margin: float) -> Outcome:
    """All rounds; of the texts, the draft among them, the best: each must beat the best before it by the margin."""
    best = 0
    asked = []
    for round_ in range(1, written.rounds + 1):
        if written.repeats(round_):
            continue
        asked.append((round_, best))
        if written.wins(round_, best, margin):
            best = round_
    return Outcome(best, written.rounds, _asked(written, asked))


@dataclass(frozen=True, slots=True)
class NamedRule:
    name: str
    """As the server names it."""
    value: float | None
    """Its threshold, or the number of rounds of `last`; None: it has none."""
    rule: Rule


def rules(
    rounds: int, edit_ratios: Sequence[float], sure: Sequence[float], margins: Sequence[float]
) -> list[NamedRule]:
    """All that are compared; those with a threshold from the mildest on, which loses the least."""
    return [
        *(NamedRule("last", number, partial(last, rounds=number)) for number in range(rounds + 1)),
        NamedRule("unchanged", None, unchanged),
        *(NamedRule("small_edit", value, partial(small_edit, edit_ratio=value)) for value in sorted(edit_ratios)),
        NamedRule("no_gain", None, no_gain),
        *(NamedRule("judge_sure", value, partial(judge_sure, p=value)) for value in sorted(sure, reverse=True)),
        *(NamedRule("select", value, partial(select, margin=value)) for value in sorted(margins)),
    ]


def lost(rule: Rule, written: Sequence[Trajectory]) -> list[bool]:
    """Of each useful round whether the rule loses it."""
    return [round_ > rule(one).returned for one in written for round_ in one.useful()]


def chosen(mildest_first: Sequence[NamedRule], written: Sequence[Trajectory], alpha: float) -> float | None:
    """The most drastic threshold of one rule that loses at most alpha of the useful rounds; None: not even the mildest
    is known to."""
    found = None
    for candidate in mildest_first:
        gone = lost(candidate.rule, written)
        if sum(gone) + 1 > alpha * (len(gone) + 1):
            break
        found = candidate.value
    return found


def _first(written: Trajectory, ends: Callable[[int], bool]) -> Outcome:
    """The first round of which this is true, or the last one."""
    found: Iterator[int] = (round_ for round_ in range(1, written.rounds + 1) if ends(round_))
    number = next(found, written.rounds)
    return Outcome(number, number)


def _asked(written: Trajectory, pairs: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Of two texts that are the same nobody has to be asked."""
    return tuple((new, old) for new, old in pairs if written.texts[new] != written.texts[old])
