"""`slhf-train preference CONFIG.yaml`: trains and evaluates reward models."""

import argparse
import logging
from pathlib import Path

HELP = "train and evaluate the reward models that judge answers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="YAML file; its keys are those of RewardTraining")


def run(arguments: argparse.Namespace) -> None:
    from slhf_training.config import read_config
    from slhf_training.reward.run import train
    from slhf_training.reward.settings import RewardTraining

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(read_config(arguments.config, RewardTraining))
