"""`slhf-train export RUN BUNDLE`: a run's weights as a bundle that the server loads."""

import argparse
import sys
from pathlib import Path

HELP = "write the bundle of a trained Leader and Follower, which the server loads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="the output directory of a fit")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the directory to write; it must not exist")
    parser.add_argument("--name", help="the bundle's name (default: its directory's)")
    parser.add_argument("--step", type=int, help="which checkpoint (default: the last)")
    parser.add_argument("--merge", action="store_true", help="one plain model and no adapters; for shared weights")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the adapters (default: as trained)")
    parser.add_argument(
        "--start",
        type=Path,
        metavar="RUN",
        help="with --share: another fit, from whose weights this one started (default: the base model)",
    )
    parser.add_argument("--start-step", type=int, help="which checkpoint of it (default: the last)")
    parser.add_argument(
        "--share", type=float, help="only so much of the way, 0 to 1, from the base model or from --start"
    )
    parser.add_argument("--rank", type=int, help="of the adapters, lower than as trained: the nearest of that rank")
    parser.add_argument("--evaluation", type=Path, metavar="FILE.json", help="figures for the bundle's card")


def run(arguments: argparse.Namespace) -> None:
    from slhf_training.errors import SettingsError
    from slhf_training.fit.export import Interpolation, export

    if (arguments.start and arguments.share is None) or (arguments.start_step and not arguments.start):
        raise SettingsError("--start needs --share, and --start-step needs --start")
    between = None
    if arguments.share is not None:
        between = Interpolation(arguments.share, arguments.start, arguments.start_step)
    name = arguments.name or arguments.bundle.resolve().name
    bundle = export(
        arguments.run_directory,
        arguments.bundle,
        name,
        step=arguments.step,
        merge=arguments.merge,
        dtype=arguments.dtype,
        evaluation=arguments.evaluation,
        interpolation=between,
        rank=arguments.rank,
    )
    sys.stdout.write(f"{arguments.bundle}: {bundle.name}, {bundle.trained}, revision {bundle.revision}\n")
