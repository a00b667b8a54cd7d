"""`slhf-train evaluate CONFIG.yaml`: does refining help, and the paper's evaluations, as one report."""

import argparse
import logging
import sys
from pathlib import Path

HELP = "write answers, have programs and judges look at them, and report: mended and broken, duels, rounds, and more"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="YAML file; its keys are those of slhf_training/evaluation")
    parser.add_argument("--instead", type=Path, metavar="FILE.yaml", help="top keys that replace the configuration's")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N prompts of each part")


def run(arguments: argparse.Namespace) -> None:
    from slhf_training.config import read_config, read_mapping
    from slhf_training.evaluation.report import READABLE
    from slhf_training.evaluation.run import evaluate
    from slhf_training.evaluation.settings import evaluate_settings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    instead = None if arguments.instead is None else read_mapping(arguments.instead)
    settings = read_config(arguments.config, evaluate_settings(), instead)
    evaluate(settings, arguments.limit)
    sys.stdout.write(f"{settings.output_dir / READABLE}\n")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not above 0")
    return number
