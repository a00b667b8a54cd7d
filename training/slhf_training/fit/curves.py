"""The curves of a run in one picture: those by which docs/training.md tells a healthy run from others."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Log = Sequence[Mapping[str, Any]]
"""A trainer's log: each entry has the `step` that it is of."""


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    lines: Mapping[str, str]
    """Keys of the log by what the picture calls them. Where `/low` and `/high` stand beside `/win_rate`, they are its
    interval."""
    level: float | None = None
    """Where nothing is won and nothing lost."""
    at_zero: bool = False
    """The axis begins at zero."""


PANELS = (
    Panel("win rate on held-out chats, by another judge", {
        "last answer against untrained": "validation/win_rate",
        "Leader against untrained": "validation/leader/win_rate",
        "Follower against Leader": "validation/follower/win_rate",
    }, level=0.5),
    Panel("reward by the training's judge", {"Leader": "leader/reward", "Follower": "follower/reward"}, level=0.5),
    Panel("KL to the reference, nats an answer", {"Leader": "leader/kl", "Follower": "follower/kl"}, at_zero=True),
    Panel("tokens of an answer", {
        "Leader": "leader/tokens",
        "Follower": "follower/tokens",
        "Leader, held-out chats": "validation/leader/tokens",
        "Follower, held-out chats": "validation/follower/tokens",
    }, at_zero=True),
    Panel("entropy on held-out chats, nats a token", {
        "Leader": "validation/leader/entropy",
        "Follower": "validation/follower/entropy",
    }, at_zero=True),
    Panel("sampler_gap, nats a token", {"sampler against trainer": "sampler_gap"}, at_zero=True),
)  # fmt: skip
VERIFIED = Panel("share of right answers, by the judge that knows", {
    "Leader": "leader/right",
    "Follower": "follower/right",
    "Leader, held-out chats": "validation/leader/right",
    "Follower, held-out chats": "validation/follower/right",
    "untrained, held-out chats": "validation/reference/right",
}, at_zero=True)  # fmt: skip
"""There where a judge knows of an answer alone whether it is right."""


def draw(log: Log) -> Figure:
    """The picture. What a run did not log is left out: without a validation three panels are empty."""
    verified = any(key in entry for entry in log for key in VERIFIED.lines.values())
    panels = (*PANELS, VERIFIED) if verified else PANELS
    rows = math.ceil(len(panels) / 3)
    figure = Figure(figsize=(13, 1 + 3 * rows), layout="constrained")
    figure.supxlabel("step", fontsize="medium")
    places = figure.subplots(rows, 3, sharex=True).flat
    for axes in places[len(panels) :]:
        axes.remove()
    for panel, axes in zip(panels, places, strict=False):
        for name, key in panel.lines.items():
            _line(axes, name, key, log)
        if panel.level is not None:
            axes.axhline(panel.level, color="tab:grey", linewidth=1, linestyle=":")
        if panel.at_zero:
            axes.set_ylim(bottom=0)
        axes.tick_params(labelbottom=True)  # nothing need stand below it
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(panel.title, fontsize="medium")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    return figure


def _line(axes: Axes, name: str, key: str, log: Log) -> None:
    entries = [entry for entry in log if key in entry]
    if not entries:
        return
    steps = [entry["step"] for entry in entries]
    (line,) = axes.plot(steps, [entry[key] for entry in entries], "o-", label=name, markersize=3, linewidth=1)
    low, high = (key.replace("win_rate", end) for end in ("low", "high"))
    if low != key and low in entries[0]:
        below, above = ([entry[end] for entry in entries] for end in (low, high))
        axes.fill_between(steps, below, above, color=line.get_color(), alpha=0.12, linewidth=0)
