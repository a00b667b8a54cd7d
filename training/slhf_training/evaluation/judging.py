"""A run of `slhf-train judge`: how often a preference is right, and how often it speaks, on pairs that are known.

Of a panel each judge is reported, too, from the same verdicts.
"""

import json
import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from slhf_training.config import RelativePath, Section
from slhf_training.data import Example
from slhf_training.data.load import DataSettings, load
from slhf_training.errors import DataError
from slhf_training.preference import Preference, PreferenceSettings, preference_of
from slhf_training.preference.mixture import Panel
from slhf_training.reward.evaluation import pair_report
from slhf_training.types import Probabilities

REPORT, READABLE, SCORES = "report.json", "report.md", "scores.jsonl"
ALL = "where all agree"
"""The panel's own row; no judge can be named so."""
_LOG = logging.getLogger(__name__)


class JudgingSettings(Section):
    preference: PreferenceSettings
    output_dir: RelativePath
    pairs: dict[str, tuple[DataSettings, ...]] = Field(min_length=1)
    """Sets of pairs by name; rows without a pair are left out."""


def judge(settings: JudgingSettings, limit: int | None = None) -> str:
    """Judge, write the report and every verdict; returns the report for readers. `limit`: most pairs of a set.

    Raises DataError and SettingsError before anything is judged.
    """
    sets = {name: _pairs(name, parts)[:limit] for name, parts in settings.pairs.items()}
    source = preference_of(settings.preference)
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    report: dict[str, dict[str, Any]] = {}
    scored = settings.output_dir / f".{SCORES}"  # an earlier run's verdicts stay until these are whole
    with scored.open("w", encoding="utf-8") as scores:
        for name, examples in sets.items():
            _LOG.info("%s: %d pairs", name, len(examples))
            verdicts = _verdicts(source, settings.preference.kind, examples)
            scores.writelines(_scores(name, examples, verdicts))
            report[name] = {judge: pair_report(p, examples) for judge, p in verdicts.items()}
    scored.rename(settings.output_dir / SCORES)
    readable = "\n".join(_table(report)) + "\n"
    written = {"settings": settings.model_dump(mode="json"), "limit": limit, "sets": report}
    (settings.output_dir / REPORT).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    (settings.output_dir / READABLE).write_text(readable, encoding="utf-8")
    return readable


def _pairs(name: str, parts: Sequence[DataSettings]) -> list[Example]:
    """The pairs of all parts in one order, so that the first of them come from every part."""
    examples = [example for data in parts for example in load(data) if example.pair]
    if not examples:
        raise DataError(f"pairs.{name}: no row has a pair")
    random.Random(0).shuffle(examples)
    return examples


def _verdicts(source: Preference, kind: str, examples: Sequence[Example]) -> dict[str, Probabilities]:
    """p(chosen beats rejected) by judge."""
    pairs = [(example.chat, example.pair) for example in examples if example.pair]
    asked = [chat for chat, _ in pairs], [pair.chosen for _, pair in pairs], [pair.rejected for _, pair in pairs]
    if not isinstance(source, Panel):
        return {kind: source(*asked)}
    votes = source.votes(*asked)
    return {**votes, ALL: source.verdict(votes)}


def _scores(name: str, examples: Sequence[Example], verdicts: Mapping[str, Probabilities]) -> Iterator[str]:
    for place, example in enumerate(examples):
        assert example.pair
        words = [len(text.split()) for text in (example.pair.chosen, example.pair.rejected)]
        p = {judge: None if math.isnan(found[place]) else float(found[place]) for judge, found in verdicts.items()}
        row = {"set": name, "id": example.id, "source": example.source, "words": words, "p": p}
        yield json.dumps(row, ensure_ascii=False) + "\n"


def _table(report: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    lengths = ("chosen longer", "about equal", "chosen shorter")
    columns = ("pairs", "judge", "n", "coverage", "accuracy", "95 % interval", *lengths, "picks the longer")
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for name, by_judge in report.items():
        for judge, facts in by_judge.items():
            accuracy = _share(facts["accuracy"])
            if facts["pairs"]:
                accuracy += f" ± {_share(facts['standard_error'])}"
            interval = "–".join(map(_share, facts["interval"] or ())) or _share(None)
            by_length = [f"{_share(one['accuracy'])} ({one['n']})" for one in map(facts["by_length"].get, lengths)]
            asked = facts["pairs"] + facts["abstained"]
            cells = [name, judge, asked, _share(facts["coverage"]), accuracy, interval, *by_length]
            yield "| " + " | ".join(map(str, [*cells, _share(facts["picks_longer"])])) + " |"


def _share(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.3f}"
