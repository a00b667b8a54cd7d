"""`slhf-train lessons CONFIG.yaml`: rows for `slhf-train imitate` out of data whose answers a program can check."""

import argparse
import logging
import sys
from pathlib import Path

HELP = "write lessons for both roles: right drafts stay, wrong ones become what passes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml", help="settings; its keys are LessonsSettings'")


def run(arguments: argparse.Namespace) -> None:
    from slhf_training.config import read_config
    from slhf_training.lessons.run import lessons
    from slhf_training.lessons.settings import LessonsSettings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    sys.stdout.write(f"{lessons(read_config(arguments.config, LessonsSettings))}\n")
