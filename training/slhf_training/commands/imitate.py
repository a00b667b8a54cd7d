"""`slhf-train imitate CONFIG.yaml`: one adapter learns what both roles should have written."""

import argparse
import logging
import sys
from pathlib import Path

HELP = "learn answers and refinements from given ones, in one adapter for both roles"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml", help="settings; its keys are ImitateSettings'")
    parser.add_argument("--name", help="the bundle's name (default: the output directory's)")


def run(arguments: argparse.Namespace) -> None:
    from slhf_training.config import read_config
    from slhf_training.imitation.run import BUNDLE, imitate
    from slhf_training.imitation.settings import ImitateSettings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = read_config(arguments.config, ImitateSettings)
    bundle = imitate(settings, arguments.name or settings.output_dir.name)
    sys.stdout.write(f"{settings.output_dir / BUNDLE}: {bundle.name}, revision {bundle.revision}\n")
