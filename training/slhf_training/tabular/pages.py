"""The Condorcet example for readers: tables, and one picture: the probability that a user has seen their favourite
answer, by round, under three solution concepts.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slhf_training.errors import SettingsError
from slhf_training.tabular.condorcet import (
    ANSWERS,
    SKEWED,
    Distance,
    Solution,
    gda_distance,
    random_games_distance,
    solved,
)
from slhf_training.tabular.games import Array, condorcet_winner, cyclic_triples

EQUAL, UNEQUAL = np.full(3, 1 / 3), np.array([0.4, 0.35, 0.25])
CURVES = {
    "slhf": ("SLHF: the Leader's answer, refined by the Follower", "tab:blue", "o-"),
    "nlhf": ("NLHF: samples of its mixed policy", "tab:orange", "s--"),
    "rlhf_skewed": ("RLHF: samples (pairs drawn from {:g}, {:g}, {:g})".format(*SKEWED), "tab:gray", "^:"),
}


def games(*, as_json: bool, plot: Path | None) -> str:
    """The Condorcet example as tables, or its numbers as JSON. Raises SettingsError as `draw` does."""
    solutions = [solved(EQUAL), solved(UNEQUAL)]
    distances = [
        gda_distance(solutions[1].preference, form, kappa) for form in ("projected", "mirror") for kappa in (1, 5, 25)
    ]
    random_games = random_games_distance()
    if plot:
        draw(solutions[0], plot)
    if not as_json:
        return "\n".join([*map(game_table, solutions), gda_table(distances, random_games)])
    numbers = {
        "games": [asdict(solution) for solution in solutions],
        "gda": [asdict(distance) for distance in distances],
        "random_games": random_games,
    }
    return json.dumps(numbers, default=np.ndarray.tolist) + "\n"


def game_table(solution: Solution) -> str:
    winner = condorcet_winner(solution.preference)
    replies = ", ".join(
        f"{'ABC'[y]} -> {'ABC'[reply]}" for y, reply in enumerate(solution.slhf.follower.argmax(axis=1))
    )
    cycles = cyclic_triples(solution.preference)
    skewed = "({:g}, {:g}, {:g})".format(*SKEWED)
    return f"""\
{row("Users whose favourite is", "A", "B", "C")}
{row("share", *solution.shares)}
Condorcet winner: {"none" if winner is None else "ABC"[winner]}; triples that are cycles: {cycles:.0%}

{row("Policy", "A", "B", "C")}
{row("RLHF, all pairs alike", *solution.rlhf_uniform)}
{row(f"RLHF, pairs from {skewed}", *solution.rlhf_skewed)}
{row("NLHF", *solution.nlhf)}
{row("SLHF Leader", *solution.slhf.leader)}
{row("SLHF value V", *solution.slhf.value)}
SLHF Follower: {replies}

{row("Favourite seen within", *map(str, range(1, ANSWERS + 1)))}
{row("RLHF, all pairs alike", *solution.reached["rlhf_uniform"])}
{row(f"RLHF, pairs from {skewed}", *solution.reached["rlhf_skewed"])}
{row("NLHF", *solution.reached["nlhf"])}
{row("SLHF", *solution.reached["slhf"])}
"""


def gda_table(distances: list[Distance], random_games: float) -> str:
    rows = [row(f"{d.form}, kappa {d.kappa:g}", f"{d.last:.0e}", f"{d.averaged:.0e}") for d in distances]
    return "\n".join(
        [
            row("GDA to closed form, tau 0.1", "last", "averaged"),
            *rows,
            f"20 random cyclic games of 5 answers, mirror, kappa 5: {random_games:.0e} at most",
            "",
        ]
    )


def row(name: str, *values: float | str) -> str:
    return f"{name:32}" + "".join(f"{value:>9}" if isinstance(value, str) else f"{value:9.3f}" for value in values)


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
