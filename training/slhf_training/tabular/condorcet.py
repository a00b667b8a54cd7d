"""The Condorcet example, three annotator types whose majority is a cycle, solved by RLHF, NLHF and SLHF.

A user is drawn from the same population and knows their favourite only when they see it; how many answers does it take?
RLHF and NLHF can only be asked again; SLHF's Follower refines the answer that it sees.

`games` shows this to readers, as tables and as a picture of the probability that a user has seen their favourite.
"""

import json
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from slhf_training.errors import SettingsError
from slhf_training.tabular.games import (
    CONDORCET,
    Array,
    condorcet_winner,
    cyclic_triples,
    nlhf,
    of_annotators,
    pairs_drawn_from,
    random_cyclic,
    rlhf,
    total_variation,
)
from slhf_training.tabular.stackelberg import Equilibrium, Form, PolicyTables, averages, equilibrium, stackelberg_gda


def by_samples(policy: Array, favourite: int, answers: int) -> Array:
    """(answers,): the probability that the favourite is among the first 1, 2, ... samples of the policy (n,)."""
    return np.asarray(1 - (1 - policy[favourite]) ** np.arange(1, answers + 1))


def by_refinement(leader: Array, follower: Array, favourite: int, answers: int) -> Array:
    """(answers,): the same for the answer of the Leader (n,) and its refinements, one after the other, by (n, n)."""
    missed = leader.copy()  # (n,): where the walk stands, unless it has met the favourite
    reached = np.empty(answers)
    for answer in range(answers):
        missed[favourite] = 0
        reached[answer] = 1 - missed.sum()
        missed = missed @ follower
    return reached


TAU = 1e-3  # so small that the policies are the unregularised ones but for a part in a thousand
ANSWERS = 5
SKEWED = np.array([0.6, 0.3, 0.1])  # the answers of RLHF's pairs are drawn from this, or uniformly


@dataclass(frozen=True, slots=True)
class Solution:
    shares: Array  # (3,): of the users whose favourite is A, B, C
    preference: Array  # (3, 3)
    rlhf_uniform: Array  # (3,): from data that compares all pairs alike
    rlhf_skewed: Array  # (3,): from pairs drawn from SKEWED
    nlhf: Array  # (3,)
    slhf: Equilibrium
    reached: dict[str, Array]  # (ANSWERS,) each: probability that a user has seen their favourite


@dataclass(frozen=True, slots=True)
class Distance:
    """Total variation between StackelbergGDA and the closed form, the larger one of both roles."""

    form: Form
    kappa: float
    last: float
    averaged: float


def solved(shares: Array) -> Solution:
    preference = of_annotators(CONDORCET, shares)
    rlhf_uniform = rlhf(preference, pairs_drawn_from(np.full(3, 1 / 3)), TAU)
    rlhf_skewed = rlhf(preference, pairs_drawn_from(SKEWED), TAU)
    nash = nlhf(preference, TAU)
    slhf = equilibrium(preference, TAU, TAU)
    samples = {"rlhf_uniform": rlhf_uniform, "rlhf_skewed": rlhf_skewed, "nlhf": nash}
    reached = {name: over_users(policy, None, shares) for name, policy in samples.items()}
    reached["slhf"] = over_users(slhf.leader, slhf.follower, shares)
    return Solution(shares, preference, rlhf_uniform, rlhf_skewed, nash, slhf, reached)


def over_users(policy: Array, follower: Array | None, shares: Array) -> Array:
    """(ANSWERS,): the probability that a user drawn from the shares has seen their favourite."""
    of_each = [
        by_samples(policy, favourite, ANSWERS)
        if follower is None
        else by_refinement(policy, follower, favourite, ANSWERS)
        for favourite in CONDORCET[:, 0]
    ]
    return np.asarray(shares @ np.array(of_each))


def gda_distance(preference: Array, form: Form, kappa: float, steps: int = 3000, tau: float = 0.1) -> Distance:
    """Return how far the policies are from the equilibrium after `steps` steps of eta 0.1 from uniform ones."""
    iterates = list(islice(stackelberg_gda(preference, tau, tau, form=form, kappa=kappa), steps))
    *_, averaged = averages(iter(iterates))
    goal = equilibrium(preference, tau, tau)
    return Distance(form, kappa, distance(iterates[-1], goal), distance(averaged, goal))


def random_games_distance(games: int = 20, answers: int = 5) -> float:
    """Return the largest distance of the mirror form with kappa 5 over random cyclic games."""
    rng = np.random.default_rng(0)
    return max(gda_distance(random_cyclic(answers, rng), "mirror", 5).last for _ in range(games))


def distance(policies: PolicyTables, goal: Equilibrium) -> float:
    return max(total_variation(policies.leader, goal.leader), total_variation(policies.follower, goal.follower))


EQUAL, UNEQUAL = np.full(3, 1 / 3), np.array([0.4, 0.35, 0.25])
CURVES = {
    "slhf": ("SLHF: the Leader's answer, refined by the Follower", "tab:blue", "o-"),
    "nlhf": ("NLHF: samples of its mixed policy", "tab:orange", "s--"),
    "rlhf_skewed": ("RLHF: samples (pairs drawn from {:g}, {:g}, {:g})".format(*SKEWED), "tab:gray", "^:"),
}


def games(*, as_json: bool, plot: Path | None) -> str:
    """Return the Condorcet example as tables, or its numbers as JSON. Raises SettingsError as `draw` does."""
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
    """Draw the picture.

    Raises SettingsError where the file cannot be written, or its ending names no kind of picture.
    """
    from matplotlib.figure import Figure  # late: tables do not need it

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


def curve(axes: Any, reached: Array, label: str, colour: str, style: str) -> None:
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
