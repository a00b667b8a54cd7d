"""`slhf-train judge CONFIG.yaml`: how often a preference is right on pairs whose better answer is known."""

import argparse
import logging
import sys
from pathlib import Path

HELP = "measure a preference's accuracy and coverage on pairs whose better answer is known"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml", help="settings; its keys are JudgingSettings'")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N pairs of each set")


def run(arguments: argparse.Namespace) -> None:
    from slhf_training.config import read_config
    from slhf_training.errors import SettingsError
    from slhf_training.evaluation.judging import JudgingSettings, judge

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.limit is not None and arguments.limit < 1:
        raise SettingsError(f"--limit: {arguments.limit} is not above 0")
    sys.stdout.write(judge(read_config(arguments.config, JudgingSettings), arguments.limit))
