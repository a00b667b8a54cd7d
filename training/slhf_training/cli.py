"""`slhf-train`: trains, judges, evaluates and exports Leader/Follower bundles."""

import argparse
import importlib
import pkgutil
import signal
import sys
from types import FrameType

from slhf_training import commands
from slhf_training.errors import TrainingError


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0, 1 where a TrainingError says what the user has to mend, 2 for bad arguments."""
    if argv is None:
        signal.signal(signal.SIGTERM, _end)
    parser = argparse.ArgumentParser(prog="slhf-train", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for found in pkgutil.iter_modules(commands.__path__):
        module = importlib.import_module(f"{commands.__name__}.{found.name}")  # light: each imports torch when it runs
        subparser = subparsers.add_parser(found.name, help=module.HELP, description=module.HELP)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except TrainingError as exc:
        sys.stderr.write(f"slhf-train: {exc}\n")
        return 1
    return 0


def _end(number: int, frame: FrameType | None) -> None:
    """As ctrl-C does: what is open is closed. A vLLM engine would outlive a process that just stops."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
