"""Writes a benchmark's figures: JSON beside the script, and the tables of a page of docs."""

import json
import os
import platform
import statistics
from collections.abc import Callable
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

OURS, BARE, PLAIN = "slhf-server", "bare engine", "vllm serve"


def occasion() -> dict[str, Any]:
    """Where and when; to be called before the run, whose own load would count."""
    load = os.getloadavg()[0]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load average before the run {load:.1f}"
    return {"machine": machine, "date": datetime.now(UTC).date().isoformat()}


def write(name: str, figures: dict[str, Any], table: str, page: str = "benchmarks.md") -> None:
    """`name`.json beside the script, and the table between the page's marks of that name; prints the table."""
    directory = Path(__file__).parent
    (directory / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    file = directory.parent / "docs" / page
    before, _, rest = file.read_text(encoding="utf-8").partition(begin)
    file.write_text(f"{before}{begin}\n{table}{end}{rest.partition(end)[2]}", encoding="utf-8")
    print(table)


def serving_tables(figures: dict[str, Any]) -> str:
    """Markdown: what was run, the ratios against their limits, and tokens/s behind them."""
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    lines = [f"{figures['date']}, {figures['machine']}. {versions}.", ""]
    lines += ["| ratio | prompt | at once | measured | wanted |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in _ratios(figures)]
    lines += ["", "| prompt | at once | " + " | ".join((OURS, BARE, PLAIN)) + " |", "|---" * 5 + "|"]
    for length, at_once in _cells(figures):
        speeds = (f"{_median(figures, length, at_once, itemgetter(name)):.0f}" for name in (OURS, BARE, PLAIN))
        lines.append(f"| {length} | {at_once} | {' | '.join(speeds)} |")
    lines += ["", "Generated tokens/s, medians.", ""]
    lines += [
        "| Follower rounds at temperature 0 | tokens/s | without speculation | ratio | same text |",
        "|---" * 5 + "|",
    ]
    for name, row in figures["speculation"].items():
        lines.append(f"| {name} | {row['tokens_per_s']} | {row['without']} | {row['ratio']} | {row['same_text']} |")
    return "\n".join(lines) + "\n"


def _ratios(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []

    def add(name: str, length: int, at_once: int, wanted: str, value: Callable[[dict[str, Any]], float]) -> None:
        rows.append((name, str(length), str(at_once), f"{_median(figures, length, at_once, value):.2f}", wanted))

    for length, at_once in _cells(figures):
        if at_once == 1:
            add("(a) wall / engine", length, at_once, "<= 1.05", lambda r: r["wall_over_engine"])
        add("(b) throughput / bare engine", length, at_once, ">= 0.95", lambda r: r[OURS] / r[BARE])
        add("(c) throughput / vllm serve", length, at_once, ">= 1.1", lambda r: r[OURS] / r[PLAIN])
        add("(d) share of cache blocks found", length, at_once, ">= 0.9", lambda r: r["cached_share"])
    peer = statistics.median(figures["hugging_face_tokens_per_s"])
    ratio = _median(figures, 50, 16, lambda r: r[OURS]) / peer
    rows.append(("(e) throughput / Hugging Face generate", "50", "16", f"{ratio:.2f}", ">= 3"))
    for name, wanted in (("bfloat16, 1 at once", ">= 2.0"), ("bfloat16, 8 at once", ">= 1.3")):
        row = figures["speculation"][name]
        rows.append(("(f) speculation / none", "draft", name.split()[1], f"{row['ratio']:.2f}", wanted))
    return rows


def _cells(figures: dict[str, Any]) -> list[tuple[int, int]]:
    return list(dict.fromkeys((row["prompt_tokens"], row["at_once"]) for row in figures["rows"]))


def _median(figures: dict[str, Any], length: int, at_once: int, value: Callable[[dict[str, Any]], float]) -> float:
    """Over the repeats, so that a ratio compares systems that ran next to each other."""
    mine = (row for row in figures["rows"] if (row["prompt_tokens"], row["at_once"]) == (length, at_once))
    return statistics.median(map(value, mine))
