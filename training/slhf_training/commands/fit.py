"""`slhf-train fit CONFIG.yaml`: trains a Leader and a Follower, or a baseline, by the configuration."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from slhf_training.errors import SettingsError

if TYPE_CHECKING:
    from slhf_training.fit.settings import FitSettings

HELP = "train a Leader and a Follower (stackelberg), or a baseline (rloo, nash-md)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml", help="settings; training/examples holds some")
    parser.add_argument(
        "--algorithm", choices=["stackelberg", "rloo", "nash-md"], help="instead of the configuration's"
    )
    parser.add_argument("--output-dir", type=_absolute, help="instead of the configuration's")
    parser.add_argument("--resume", action="store_true", help="go on from the output directory's last checkpoint")


def run(arguments: argparse.Namespace) -> None:
    from slhf_training.config import read_config
    from slhf_training.data.load import load
    from slhf_training.fit.build import build_trainer
    from slhf_training.fit.run import last_checkpoint, start_run
    from slhf_training.fit.settings import FitSettings
    from slhf_training.models.sharding import end_together, from_launcher
    from slhf_training.preference import preference_of

    overriding = {"algorithm": arguments.algorithm, "output_dir": arguments.output_dir}
    instead = {key: value for key, value in overriding.items() if value is not None}
    settings = read_config(arguments.config, FitSettings, instead)
    last = last_checkpoint(settings.output_dir)
    if arguments.resume and last is None:
        raise SettingsError(f"--resume: there is no checkpoint in {settings.output_dir}")
    if last is not None and not arguments.resume:
        raise SettingsError(f"output_dir: {settings.output_dir} holds checkpoints; --resume goes on from the last")
    from_launcher()  # what it refuses is said before processes find each other
    chats = [example.chat for example in load(settings.data)]
    drafted = [example for data in (settings.drafts.data if settings.drafts else ()) for example in load(data)]
    trainer = build_trainer(settings, chats, preference_of(settings.preference), drafted)
    if dropped := len(chats) - len(trainer.train_dataset):
        most = settings.rollout.max_prompt_tokens
        sys.stderr.write(f"{dropped} of {len(chats)} chats need more than {most} tokens and were dropped\n")
    sys.stderr.write(f"process {trainer.args.process_index + 1} of {trainer.args.world_size}: {_step(settings)}\n")
    start_run(settings)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    end_together()


def _step(settings: "FitSettings") -> str:
    given = settings.drafts.per_step if settings.drafts else 0
    return f"{settings.optimisation.batch_size} chats and {given} given drafts a step"


def _absolute(path: str) -> Path:
    """Paths of the command line start where the command runs, those of the file at the file."""
    return Path(path).absolute()
