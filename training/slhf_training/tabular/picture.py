"""One picture: the probability that a user has seen their favourite answer, by round, under three solution concepts."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slhf_training.errors import SettingsError
from slhf_training.tabular.condorcet import ANSWERS, SKEWED, Solution
from slhf_training.tabular.policies import Array

CURVES = {
    "slhf": ("SLHF: the Leader's answer, refined by the Follower", "tab:blue", "o-"),
    "nlhf": ("NLHF: samples of its mixed policy", "tab:orange", "s--"),
    "rlhf_skewed": ("RLHF: samples (pairs drawn from {:g}, {:g}, {:g})".format(*SKEWED), "tab:gray", "^:"),
}


def draw(solution: Solution, file: Path) -> None:
    """Raises SettingsError where the file cannot be written, or its ending names no kind of picture."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")  # without pyplot it needs no display: Agg draws it
    axes = figure.subplots()
    for name, (label, colour, style) in CURVES.items():
        curve(axes, solution.reached[name], label, colour, style)
    axes.set(
        title="Three kinds of users whose majority is a cycle: A beats B beats C beats A",
        xlabel="answers seen (rounds)",
        ylabel="probability that the favourite is among them",
        xticks=range(1, ANSWERS + 1),
        ylim=(0, 1.08),
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower center")
    try:
        figure.savefig(file, dpi=150)
    except (OSError, ValueError) as exc:
        raise SettingsError(f"--plot {file}: {exc}") from exc


def curve(axes: Axes, reached: Array, label: str, colour: str, style: str) -> None:
    axes.plot(range(1, len(reached) + 1), reached, style, color=colour, label=label)
    for answer, probability in enumerate(reached[1:], 2):
        axes.annotate(
            f"{probability:.2f}",
            (answer, probability),
            xytext=(0, -14),
            textcoords="offset points",
            ha="center",
            color=colour,
        )
