"""`slhf-train games`: the Condorcet example in tables."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from slhf_training.tabular.condorcet import (
    ANSWERS,
    SKEWED,
    Distance,
    Solution,
    gda_distance,
    random_games_distance,
    solved,
)
from slhf_training.tabular.preferences import condorcet_winner, cyclic_triples

HELP = "solve the game in tables: RLHF, NLHF and SLHF where the majority is a cycle"

EQUAL, UNEQUAL = np.full(3, 1 / 3), np.array([0.4, 0.35, 0.25])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON instead of tables")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw how soon users see their favourite answer")


def run(arguments: argparse.Namespace) -> None:
    solutions = [solved(EQUAL), solved(UNEQUAL)]
    distances = [
        gda_distance(solutions[1].preference, form, kappa) for form in ("projected", "mirror") for kappa in (1, 5, 25)
    ]
    random_games = random_games_distance()
    if arguments.plot:
        from slhf_training.tabular.picture import draw

        draw(solutions[0], arguments.plot)
    if arguments.json:
        numbers = {
            "games": [asdict(solution) for solution in solutions],
            "gda": [asdict(distance) for distance in distances],
            "random_games": random_games,
        }
        sys.stdout.write(json.dumps(numbers, default=np.ndarray.tolist) + "\n")
    else:
        lines = [*map(game_table, solutions), gda_table(distances, random_games)]
        sys.stdout.write("\n".join(lines))


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
