"""`slhf-train fit CONFIG.yaml`: trains a Leader and a Follower, or a baseline, by the configuration."""

import argparse
import sys
from pathlib import Path

from slhf_training.errors import SettingsError

HELP = "train a Leader and a Follower (stackelberg), or a baseline (rloo, nash-md)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml", help="settings; training/examples holds some")
    parser.add_argument(
        "--algorithm", choices=["stackelberg", "rloo", "nash-md"], help="instead of the configuration's"
    )
    parser.add_argument("--output-dir", type=Path, help="instead of the configuration's")
    parser.add_argument("--resume", action="store_true", help="go on from the output directory's last checkpoint")


def run(arguments: argparse.Namespace) -> None:
    from slhf_training.settings import parse_settings, read_settings

    settings = read_settings(arguments.config)
    overriding = {"algorithm": arguments.algorithm, "output_dir": arguments.output_dir}
    given = {key: value for key, value in overriding.items() if value is not None}
    settings = parse_settings(settings.model_dump() | given, source=str(arguments.config))

    from transformers.trainer_utils import get_last_checkpoint

    from slhf_training.data import load
    from slhf_training.fitting import build_trainer
    from slhf_training.preference.registry import preference_of
    from slhf_training.run import start_run

    directory = settings.output_dir
    last = get_last_checkpoint(str(directory)) if directory.is_dir() else None
    if arguments.resume and last is None:
        raise SettingsError(f"--resume: there is no checkpoint in {directory}")
    if last is not None and not arguments.resume:
        raise SettingsError(f"output_dir: {directory} holds checkpoints of another run; --resume goes on from them")
    examples = load(settings.data)
    trainer = build_trainer(settings, [example.chat for example in examples], preference_of(settings.preference))
    start_run(settings)
    dropped = len(examples) - len(trainer.train_dataset)
    if dropped:
        sys.stderr.write(
            f"{dropped} of {len(examples)} chats have a prompt of more than "
            f"{settings.rollout.max_prompt_tokens} tokens and were dropped\n"
        )
    trainer.train(resume_from_checkpoint=last)
