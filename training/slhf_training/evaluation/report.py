"""The report of an evaluation: data, Markdown for readers, and pictures."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slhf_training.evaluation.markdown import table
from slhf_training.evaluation.sections import registered

REPORT, READABLE = "report.json", "report.md"
Row = Mapping[str, Any]


def write_report(report: Row, folder: Path) -> None:
    (folder / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / READABLE).write_text(markdown(report), encoding="utf-8")
    for name, kind in registered().items():
        if name in report["sections"] and (picture := kind.picture(report["sections"][name])) is not None:
            picture.savefig(folder / f"{name}.png", dpi=150)


def markdown(report: Row) -> str:
    """What is most worth reading comes first: a section's summary, then what the figures are, then the sections."""
    found = {kind: report["sections"][name] for name, kind in registered().items() if name in report["sections"]}
    lines = ["# Evaluation", ""]
    for kind, figures in found.items():
        lines += kind.summary(figures)
    lines += _facts(report)
    for kind, figures in found.items():
        lines += ["", *kind.markdown(figures)]
    return "\n".join(lines) + "\n"


def _facts(report: Row) -> Iterator[str]:
    prompts = f"{report['prompts']} prompts. " if report["prompts"] else ""
    yield f"{prompts}A figure is followed by its 95 % interval from {report['resamples']} resamples of the prompts." + (
        " *Preference* is the mean of p, *preferred* counts p > 1/2 as one and ties as half, *length-controlled* is "
        "the win rate at equal length (logistic regression, as AlpacaEval 2). "
        f"The judge abstained from {report['judgements']['abstained']} of the pairs."
        if report["settings"]["preference"] is not None
        else ""
    )
    yield ""
    yield from table(
        ["model", "from", "trained", "revision"],
        (
            [name, model.get("bundle") or model.get("drafts"), model.get("trained"), model.get("revision")]
            for name, model in report["models"].items()
        ),
    )
