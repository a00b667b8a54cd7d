"""What the kept verdicts say: the report of a shadow, and preference pairs for training."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence

from slhf.verdicts import Ended, PreferenceList, PreferencePair, ShadowReport, Spent, Tally
from slhf_server.settings.shadowing import ShadowSettings
from slhf_server.verdicts.store import Experiment, Progress, VerdictStore
from slhf_server.verdicts.win_rate import decision, interval, length_controlled

_DAY_S = 86_400
_SCORES = {"win": 1.0, "tie": 0.5, "loss": 0.0}
_LONG = (50, 200)
"""Words of a draft: below the first it is short, from the second on long."""
_SHADOWS = """
SELECT outcome, draft_source, draft_words, refined_characters - draft_characters AS longer, consistent
FROM verdicts WHERE model = ? AND revision = ? AND judge = ? AND source = 'shadow'
"""
_SOURCES = (
    "SELECT source, outcome, count(*) AS n FROM verdicts WHERE model = ? AND revision = ? GROUP BY source, outcome"
)
_DECISIVE = "FROM verdicts WHERE model = :model AND outcome IN ('win', 'loss') AND (:all OR key IS :key)"
_PAIRS = f"""
SELECT number, refinement, source, outcome, messages, draft, refined {_DECISIVE}
AND messages IS NOT NULL AND number > :after ORDER BY number LIMIT :limit
"""
_WITHOUT = f"SELECT count(*) AS n {_DECISIVE} AND messages IS NULL"


async def report(
    store: VerdictStore, experiment: Experiment, settings: ShadowSettings | None, progress: Progress | None, now: float
) -> ShadowReport:
    """The report of a served model. Without a shadow `settings` and `progress` are None, and `by` alone counts."""
    whose = (experiment.model, experiment.revision)
    rows = await store.read(_SHADOWS, (*whose, experiment.judge))
    sources: dict[str, Counter[str]] = {}
    for row in await store.read(_SOURCES, whose):
        sources.setdefault(row["source"], Counter())[row["outcome"]] += row["n"]
    outcomes = Counter[str](row["outcome"] for row in rows)
    scored = [row for row in rows if row["outcome"] in _SCORES]
    agreed = [bool(row["consistent"]) for row in rows if row["consistent"] is not None]
    spent = progress or Progress(0, 0, 0, {})
    return ShadowReport(
        **dict(tally(outcomes)),
        model=experiment.model,
        revision=experiment.revision,
        judge=None if settings is None else settings.judge,
        share=None if settings is None else settings.share,
        started=None if progress is None else int(progress.started),
        ended=None if settings is None or progress is None else ended(settings, progress, now),
        abstained=outcomes["abstained"],
        consistency=sum(agreed) / len(agreed) if agreed else None,
        length_controlled=length_controlled(
            [_SCORES[row["outcome"]] for row in scored], [row["longer"] for row in scored]
        ),
        by={
            "draft_words": _strata((_length(row["draft_words"]), row["outcome"]) for row in rows),
            "draft_source": _strata((row["draft_source"], row["outcome"]) for row in rows),
            "source": {source: tally(counted) for source, counted in sorted(sources.items())},
        },
        spent=Spent(refine_tokens=spent.refine_tokens, judge_tokens=spent.judge_tokens),
        decision=decision(outcomes["win"], outcomes["loss"]),
    )


def tally(outcomes: Counter[str]) -> Tally:
    wins, losses = outcomes["win"], outcomes["loss"]
    ties = outcomes["tie"] + outcomes["both_bad"]
    n = wins + ties + losses
    return Tally(
        n=n,
        wins=wins,
        ties=ties,
        losses=losses,
        win_rate=wins / (wins + losses) if wins + losses else None,
        interval=interval(wins, losses),
        matched_or_beat=(wins + ties) / n if n else None,
    )


def ended(settings: ShadowSettings, progress: Progress, now: float) -> Ended | None:
    """Which limit of a shadow has been reached."""
    if now >= progress.started + settings.days * _DAY_S:
        return "days"
    if progress.refine_tokens + progress.judge_tokens >= settings.tokens:
        return "tokens"
    judged = sum(progress.outcomes.get(outcome, 0) for outcome in _SCORES)
    return "verdicts" if judged >= settings.verdicts else None


async def pairs(
    store: VerdictStore, model: str, *, key: str | None, every_key: bool, after: int, limit: int
) -> PreferenceList:
    """A page of the decisive verdicts whose texts were kept, of every bundle that the model has had."""
    whose = {"model": model, "key": key, "all": every_key}
    found = await store.read(_PAIRS, whose | {"after": after, "limit": limit + 1})
    without = await store.read(_WITHOUT, whose)
    shown = found[:limit]
    return PreferenceList(
        data=[_pair(row) for row in shown],
        has_more=len(found) > limit,
        last_id=str(shown[-1]["number"]) if shown else None,
        without_texts=without[0]["n"] if without else 0,
    )


def _pair(row: sqlite3.Row) -> PreferencePair:
    texts: Sequence[str] = (row["refined"], row["draft"])
    chosen, rejected = texts if row["outcome"] == "win" else reversed(texts)
    return PreferencePair(
        id=row["refinement"],
        source=row["source"],
        messages=json.loads(row["messages"]),
        chosen=chosen,
        rejected=rejected,
    )


def _strata(outcomes: Iterable[tuple[str, str]]) -> dict[str, Tally]:
    counted: dict[str, Counter[str]] = {}
    for stratum, outcome in outcomes:
        counted.setdefault(stratum, Counter())[outcome] += 1
    return {stratum: tally(counts) for stratum, counts in sorted(counted.items())}


def _length(words: int) -> str:
    short, long = _LONG
    return f"below {short}" if words < short else f"{short} to {long - 1}" if words < long else f"{long} and more"
