"""`slhf-train distill CONFIG.yaml`: one adapter that speaks as one bundle's Leader and another's Follower."""

import argparse
import logging
import sys
from pathlib import Path

HELP = "learn one bundle's Leader and another's Follower in one adapter, which merges"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml", help="settings; its keys are DistillSettings'")
    parser.add_argument("--name", help="the bundle's name (default: the output directory's)")


def run(arguments: argparse.Namespace) -> None:
    from slhf_training.config import read_config
    from slhf_training.distill.run import BUNDLE, distill
    from slhf_training.distill.settings import DistillSettings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = read_config(arguments.config, DistillSettings)
    bundle = distill(settings, arguments.name or settings.output_dir.name)
    sys.stdout.write(f"{settings.output_dir / BUNDLE}: {bundle.name}, revision {bundle.revision}\n")
