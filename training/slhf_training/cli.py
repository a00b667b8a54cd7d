"""`slhf-train`: trains, judges, evaluates and exports bundles of two roles. A command imports its room when it runs."""

import argparse
import json
import logging
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from slhf.errors import SandboxError
from slhf_training.errors import DataError, SettingsError, TrainingError

FORMER: Mapping[str, str] = {"instruct": "add-instructions", "preference": "reward"}
"""The names that commands had until version 0.1.0, with today's."""


@dataclass(frozen=True, slots=True)
class Command:
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def main(argv: list[str] | None = None) -> int:
    """Return the exit status: 0, 1 where an error says what to mend, 130 after ctrl-C. Bad arguments exit with 2."""
    if argv is None:
        signal.signal(signal.SIGTERM, _end)
    arguments = _parser().parse_args(_named_whole(_by_todays_name(sys.argv[1:] if argv is None else argv)))
    try:
        arguments.run(arguments)
    except (TrainingError, SandboxError) as exc:
        sys.stderr.write(f"slhf-train: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("slhf-train: interrupted\n")
        return 128 + signal.SIGINT
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slhf-train", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in sorted(COMMANDS.items()):
        subparser = subparsers.add_parser(name, help=command.help, description=command.help)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def _by_todays_name(argv: list[str]) -> list[str]:
    if not argv or argv[0] not in FORMER:
        return argv
    name = FORMER[argv[0]]
    sys.stderr.write(f"slhf-train: {argv[0]} is called {name} now; the old name will go\n")
    return [name, *argv[1:]]


def _named_whole(argv: list[str]) -> list[str]:
    """A command of two words as one argument."""
    return [" ".join(argv[:2]), *argv[2:]] if " ".join(argv[:2]) in COMMANDS else argv


def _end(number: int, frame: FrameType | None) -> None:
    """End as ctrl-C does, so that everything open is closed: a vLLM engine would outlive a process that just stops."""
    raise SystemExit(128 + number)


def _logs() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")


def _config(keys: str) -> Callable[[argparse.ArgumentParser], None]:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("config", type=Path, metavar="CONFIG.yaml", help=f"settings; its keys are those of {keys}")

    return add


def _named(keys: str) -> Callable[[argparse.ArgumentParser], None]:
    def add(parser: argparse.ArgumentParser) -> None:
        _config(keys)(parser)
        parser.add_argument("--name", help="the bundle's name (default: the output directory's)")

    return add


def _fit_arguments(parser: argparse.ArgumentParser) -> None:
    _config("slhf_training.fit.FitSettings; training/examples holds some")(parser)
    parser.add_argument("--algorithm", help="such as rloo, instead of the configuration's; fit/algorithms.py has all")
    parser.add_argument("--output-dir", type=_absolute, help="instead of the configuration's")
    parser.add_argument("--resume", action="store_true", help="go on from the output directory's last checkpoint")


def _fit(arguments: argparse.Namespace) -> None:
    from slhf_training.config import read_config
    from slhf_training.fit import FitSettings
    from slhf_training.fit.run import changed, last_checkpoint, start_run
    from slhf_training.fit.trainer import trainer_of
    from slhf_training.models.sharding import end_together, from_launcher

    overriding = {"algorithm": arguments.algorithm, "output_dir": arguments.output_dir}
    instead = {key: value for key, value in overriding.items() if value is not None}
    _logs()
    settings = read_config(arguments.config, FitSettings, instead)
    last = last_checkpoint(settings.output_dir)
    if arguments.resume and last is None:
        raise SettingsError(f"--resume: there is no checkpoint in {settings.output_dir}")
    if last is not None and not arguments.resume:
        raise SettingsError(f"output_dir: {settings.output_dir} holds checkpoints; --resume goes on from the last")
    for line in changed(settings) if last is not None else ():
        sys.stderr.write(f"--resume: {line}\n")
    from_launcher()  # it refuses bad settings before the processes wait for each other
    trainer = trainer_of(settings)
    given = settings.drafts.per_step if settings.drafts else 0
    step = f"{settings.optimisation.batch_size} chats and {given} given drafts a step"
    sys.stderr.write(f"process {trainer.args.process_index + 1} of {trainer.args.world_size}: {step}\n")
    start_run(settings)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    end_together()


def _check(arguments: argparse.Namespace) -> None:
    from slhf_training.config import read_config
    from slhf_training.fit import FitSettings
    from slhf_training.fit.check import check

    _logs()
    for line in check(read_config(arguments.config, FitSettings)):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def _absolute(path: str) -> Path:
    """A path on the command line starts where the command runs, one in the configuration at the file's folder."""
    return Path(path).absolute()


def _reward(arguments: argparse.Namespace) -> None:
    from slhf_training.config import read_config
    from slhf_training.reward import RewardTraining
    from slhf_training.reward.run import train

    _logs()
    train(read_config(arguments.config, RewardTraining))


def _reward_serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="what `reward` wrote, or a bundle's judge/")
    parser.add_argument("--head", help="which of its heads scores (default: the only one)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8100, help="0 takes a free one (default: 8100)")
    parser.add_argument("--api-key-variable", metavar="NAME", help="the environment variable with the key to demand")


def _reward_serve(arguments: argparse.Namespace) -> None:
    from slhf_training.config import authorization
    from slhf_training.reward.serving import application, listener, serve, served_model

    _logs()
    authorized = authorization(arguments.api_key_variable, "--api-key-variable").get("authorization", "")
    with listener(arguments.host, arguments.port) as bound:
        model, head = served_model(arguments.directory, arguments.head)
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        sys.stdout.write(f"head {head} at http://{host}:{bound.getsockname()[1]}/rewards\n")
        sys.stdout.flush()
        serve(application(model, head, authorized), bound)


def _distill(arguments: argparse.Namespace) -> None:
    from slhf_training.config import read_config
    from slhf_training.distill import DistillSettings
    from slhf_training.distill.run import BUNDLE, distill

    _logs()
    settings = read_config(arguments.config, DistillSettings)
    bundle = distill(settings, arguments.name or settings.output_dir.name)
    sys.stdout.write(f"{settings.output_dir / BUNDLE}: {bundle.name}, revision {bundle.revision}\n")


def _imitate(arguments: argparse.Namespace) -> None:
    from slhf_training.config import read_config
    from slhf_training.imitation import ImitateSettings
    from slhf_training.imitation.run import BUNDLE, imitate

    _logs()
    settings = read_config(arguments.config, ImitateSettings)
    bundle = imitate(settings, arguments.name or settings.output_dir.name)
    sys.stdout.write(f"{settings.output_dir / BUNDLE}: {bundle.name}, revision {bundle.revision}\n")


def _lessons(arguments: argparse.Namespace) -> None:
    from slhf_training.config import read_config
    from slhf_training.lessons.run import lessons
    from slhf_training.lessons.settings import LessonsSettings

    _logs()
    sys.stdout.write(f"{lessons(read_config(arguments.config, LessonsSettings))}\n")


def _add_instructions_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT.jsonl", help="the file to write; it must not exist")
    parser.add_argument("--prompts", type=Path, nargs="+", required=True, metavar="FILE", help="JSONL, gzipped or not")
    parser.add_argument("--seed", type=int, default=0, help="of the instructions (default: 0)")


def _add_instructions(arguments: argparse.Namespace) -> None:
    from slhf_training.data.load import read_jsonl
    from slhf_training.instructions.write import instruct

    examples = [example for path in arguments.prompts for example in read_jsonl(path)]
    rows = [json.dumps(row, ensure_ascii=False) for row in instruct(examples, arguments.seed)]
    if not rows:
        raise DataError(f"--prompts: none of {len(examples)} rows has a prompt of one turn")
    try:
        with arguments.out.open("x", encoding="utf-8") as file:
            file.writelines(f"{row}\n" for row in rows)
    except OSError as exc:
        raise SettingsError(f"{arguments.out}: {exc.strerror}") from exc
    sys.stdout.write(f"{arguments.out}: {len(rows)} prompts\n")
    if left_out := len(examples) - len(rows):
        sys.stderr.write(f"{left_out} of {len(examples)} rows have more than one turn and were left out\n")


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    _config("slhf_training/evaluation")(parser)
    parser.add_argument("--instead", type=Path, metavar="FILE.yaml", help="top keys that replace the configuration's")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N prompts of each part")


def _evaluate(arguments: argparse.Namespace) -> None:
    from slhf_training.config import read_config, read_mapping
    from slhf_training.evaluation import evaluate_settings
    from slhf_training.evaluation.run import READABLE, evaluate

    _logs()
    instead = None if arguments.instead is None else read_mapping(arguments.instead)
    settings = read_config(arguments.config, evaluate_settings(), instead)
    evaluate(settings, arguments.limit)
    sys.stdout.write(f"{settings.output_dir / READABLE}\n")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not above 0")
    return number


def _judge_arguments(parser: argparse.ArgumentParser) -> None:
    _config("slhf_training.evaluation.judging.JudgingSettings")(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N pairs of each set")


def _judge(arguments: argparse.Namespace) -> None:
    from slhf_training.config import read_config
    from slhf_training.evaluation.judging import JudgingSettings, judge

    _logs()
    if arguments.limit is not None and arguments.limit < 1:
        raise SettingsError(f"--limit: {arguments.limit} is not above 0")
    sys.stdout.write(judge(read_config(arguments.config, JudgingSettings), arguments.limit))


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="the output directory of a fit")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the directory to write; it must not exist")
    parser.add_argument("--name", help="the bundle's name (default: its directory's)")
    parser.add_argument("--step", type=int, help="which checkpoint (default: the last)")
    parser.add_argument("--best", action="store_true", help="the checkpoint whose validation was the best")
    parser.add_argument("--average", type=int, metavar="N", help="the mean of the last N checkpoints' adapters")
    parser.add_argument("--ema", action="store_true", help="the moving average of the weights, which `ema_decay` keeps")
    parser.add_argument("--merge", action="store_true", help="one plain model and no adapters; for shared weights")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of what is written (default: as trained)")
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
    parser.add_argument("--judge", type=Path, metavar="DIR", help="a reward model that the bundle carries in judge/")
    parser.add_argument("--judge-head", metavar="HEAD", help="which of its heads judges (default: the only one)")


def _export(arguments: argparse.Namespace) -> None:
    from slhf_training.fit.run import Interpolation, best_step, export

    if arguments.best and arguments.step is not None:
        raise SettingsError("--best and --step both choose a checkpoint")
    if (arguments.start and arguments.share is None) or (arguments.start_step and not arguments.start):
        raise SettingsError("--start needs --share, and --start-step needs --start")
    if arguments.judge_head is not None and arguments.judge is None:
        raise SettingsError("--judge-head needs --judge")
    between = None
    if arguments.share is not None:
        between = Interpolation(arguments.share, arguments.start, arguments.start_step)
    name = arguments.name or arguments.bundle.resolve().name
    bundle = export(
        arguments.run_directory,
        arguments.bundle,
        name,
        step=best_step(arguments.run_directory) if arguments.best else arguments.step,
        merge=arguments.merge,
        dtype=arguments.dtype,
        evaluation=arguments.evaluation,
        interpolation=between,
        rank=arguments.rank,
        average=arguments.average,
        judge=arguments.judge,
        judge_head=arguments.judge_head,
        ema=arguments.ema,
    )
    sys.stdout.write(f"{arguments.bundle}: {bundle.name}, {bundle.trained}, revision {bundle.revision}\n")


def _push_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a directory with slhf.json")
    parser.add_argument("repo", metavar="REPO", help="OWNER/NAME on the hub; it is made where it is not there")
    parser.add_argument("--public", action="store_true", help="a new repository is for all to see (default: private)")


def _push(arguments: argparse.Namespace) -> None:
    from slhf_training.models.hub import push

    repo = push(arguments.bundle, arguments.repo, public=arguments.public)
    sys.stdout.write(f"scripts/serve --bundle {repo}\n")


def _games_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON instead of tables")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw how soon users see their favourite answer")


def _games(arguments: argparse.Namespace) -> None:
    from slhf_training.tabular.condorcet import games

    sys.stdout.write(games(as_json=arguments.json, plot=arguments.plot))


def _run(arguments: argparse.Namespace) -> None:
    from slhf_training.config import read_config
    from slhf_training.recipe import RecipeSettings
    from slhf_training.recipe.run import run

    _logs()
    settings = read_config(arguments.config, RecipeSettings)
    bundle = run(settings, arguments.name or settings.output_dir.name)
    sys.stdout.write(f"{bundle.name}, revision {bundle.revision}; the report: {settings.output_dir / 'evaluation'}\n")
    sys.stdout.write(f"scripts/serve --bundle {settings.output_dir / 'bundle'}\n")


COMMANDS: dict[str, Command] = {
    "add-instructions": Command(
        "write prompts with instructions that a program can check, for the preference source `instructions`",
        _add_instructions_arguments,
        _add_instructions,
    ),
    "check": Command(
        "what a configuration of fit will take: lengths, memory, and one real step that leaves nothing behind",
        _config("slhf_training.fit.FitSettings; training/examples holds some"),
        _check,
    ),
    "run": Command(
        "from pairs to a measured bundle: two judges, fit, evaluate, export; what is finished is not done again",
        _named("slhf_training.recipe.RecipeSettings"),
        _run,
    ),
    "distill": Command(
        "learn one bundle's Leader and another's Follower in one adapter, which merges",
        _named("slhf_training.distill.DistillSettings"),
        _distill,
    ),
    "evaluate": Command(
        "write answers, have programs and judges look at them, and report: mended and broken, duels, rounds, and more",
        _evaluate_arguments,
        _evaluate,
    ),
    "export": Command(
        "write the bundle of a trained Leader and Follower, which the server loads", _export_arguments, _export
    ),
    "fit": Command("train a Leader and a Follower (stackelberg), or a baseline (rloo, nash-md)", _fit_arguments, _fit),
    "games": Command(
        "solve the game in tables: RLHF, NLHF and SLHF where the majority is a cycle", _games_arguments, _games
    ),
    "imitate": Command(
        "learn answers and refinements from given ones, in one adapter for both roles",
        _named("slhf_training.imitation.ImitateSettings"),
        _imitate,
    ),
    "judge": Command(
        "measure a preference's accuracy and coverage on pairs whose better answer is known", _judge_arguments, _judge
    ),
    "lessons": Command(
        "write lessons for both roles: right drafts stay, wrong ones become what passes",
        _config("slhf_training.lessons.settings.LessonsSettings"),
        _lessons,
    ),
    "push": Command(
        "put a bundle on the Hugging Face hub, private unless --public is said, with a model card",
        _push_arguments,
        _push,
    ),
    "reward": Command(
        "train and evaluate the reward models that judge answers",
        _config("slhf_training.reward.RewardTraining"),
        _reward,
    ),
    "reward serve": Command(
        "answer over HTTP with the rewards of a trained reward model, for the server's judges",
        _reward_serve_arguments,
        _reward_serve,
    ),
}


if __name__ == "__main__":
    sys.exit(main())
