"""The stages, one after the other. What is finished is not done again, and a stage that was cut short goes on."""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slhf import Bundle
from slhf_training.errors import SettingsError
from slhf_training.evaluation import GenerationSettings, evaluate_settings
from slhf_training.evaluation.pages import ABSENT, heading, table
from slhf_training.evaluation.run import READABLE, OpenModel, evaluate, open_model
from slhf_training.fit import FitSettings
from slhf_training.fit.curves import draw
from slhf_training.fit.run import (
    best_step,
    changed,
    checkpoint_of,
    export,
    history_of,
    last_checkpoint,
    start_run,
)
from slhf_training.fit.trainer import trainer_of
from slhf_training.recipe import RecipeSettings
from slhf_training.reward import RewardTraining
from slhf_training.reward.run import REPORT as JUDGE_REPORT
from slhf_training.reward.run import train as train_reward

HEAD = "preferred"
UNKNOWN = "pairs that no judge learnt from"
CURVES = "training.png"
JUDGE, LEARNT, VALIDATED, MEASURED = (0.0, 0.4), (0.4, 0.8), (0.8, 0.9), (0.9, 1.0)
"""Parts of the pairs' prompts; the second judge learns from those that the roles learn on, and judges others."""
JUDGES = {"judge": JUDGE, "held-out-judge": LEARNT}
"""By the folder that each lies in."""
_LOG = logging.getLogger(__name__)


def run(settings: RecipeSettings, name: str, opened: OpenModel = open_model) -> Bundle:
    """The bundle, which lies in `bundle` of the output directory, with the report's figures in its card.

    Raises SettingsError, DataError, DivergedError, TrainingError, EngineError and JudgeError; what was finished stays.
    """
    for line in changed(settings):
        _LOG.warning("going on in %s: %s", settings.output_dir, line)
    fit, target = _fit_settings(settings), settings.output_dir / "bundle"
    if target.exists():
        raise SettingsError(f"output_dir: {target} exists already")
    for left in settings.output_dir.glob(".*"):  # aside, by a run that was killed while it wrote
        shutil.rmtree(left)
    start_run(settings)
    for judge, part in JUDGES.items():
        _once(settings.output_dir / judge, lambda there, part=part: _judge(settings, part, there))  # type: ignore[misc]
    _fitted(fit)
    unmeasured = settings.output_dir / "unmeasured"
    step = best_step(fit.output_dir)
    if not unmeasured.exists():
        export(fit.output_dir, unmeasured, name, step=step)
    figures = settings.output_dir / "figures.json"
    figures.write_text(json.dumps(_measured(settings, fit, unmeasured, opened)), encoding="utf-8")
    return export(fit.output_dir, target, name, step=step, evaluation=figures)


def _once(target: Path, make: Callable[[Path], None]) -> None:
    """Make a directory that is whole as soon as it has its name."""
    if target.exists():
        _LOG.info("%s is there", target)
        return
    staging = target.with_name(f".{target.name}")
    make(staging)
    staging.rename(target)


def _judge(settings: RecipeSettings, part: tuple[float, float], target: Path) -> None:
    _LOG.info("a judge learns from part %s of the pairs", list(part))
    judges = settings.judges
    read = (judges.held_out_backbone if part == LEARNT else None) or judges.backbone or settings.model
    data = settings.data.model_copy(update={"part": part})
    measured = settings.data.model_copy(update={"part": MEASURED})
    train_reward(
        RewardTraining.model_validate(
            {
                "backbone": read,
                "output": target,
                "layers": judges.layers,
                "max_tokens": judges.max_tokens,
                "training": judges.training,
                "heads": {HEAD: {"data": data, "hold_length": judges.hold_length}},
                "evaluation": {UNKNOWN: measured},
            }
        )
    )


def _fit_settings(settings: RecipeSettings) -> FitSettings:
    given = {
        **settings.fit,
        "model": settings.model,
        "output_dir": settings.output_dir / "fit",
        "data": settings.data.model_copy(update={"part": LEARNT}),
        "preference": {"kind": "reward", "model": settings.output_dir / "judge"},
        "validation": {
            "data": settings.data.model_copy(update={"part": VALIDATED, "limit": settings.measuring.prompts}),
            "preference": {"kind": "reward", "model": settings.output_dir / "held-out-judge"},
            "every": settings.fit.get("save_every", 50),
        },
    }
    return FitSettings.model_validate(given)


def _fitted(settings: FitSettings) -> None:
    finished = settings.output_dir / "finished"
    if finished.exists():
        _LOG.info("%s is trained", settings.output_dir)
        return
    last = last_checkpoint(settings.output_dir)
    trainer = trainer_of(settings)
    start_run(settings)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    finished.touch()


def _measured(settings: RecipeSettings, fit: FitSettings, bundle: Path, opened: OpenModel) -> Mapping[str, Any]:
    """The report's figures; the report itself lies in `evaluation` of the output directory."""
    how = settings.measuring
    directory = settings.output_dir / "evaluation"
    given = {
        "output_dir": directory,
        "models": {"trained": {"bundle": str(bundle)}, "base": {"bundle": settings.model}},
        "prompts": settings.data.model_copy(update={"part": MEASURED, "limit": how.prompts}),
        "preference": {"kind": "reward", "model": settings.output_dir / "held-out-judge"},
        "generation": _generation(how.generation, fit),
        "refinement": {"leaders": ["trained", "base"], "followers": ["trained", "base"]},
        "rounds": {"leaders": ["trained"], "followers": ["trained"], "rounds": how.rounds},
        "round_robin": {"players": ["base", "trained", "trained > trained"]},
    }
    report = evaluate(evaluate_settings().model_validate(given), opened=opened)
    _add_training(settings, fit, directory)
    _LOG.info("the report is %s", directory / READABLE)
    return {"judge": "a reward model from other pairs than the training's", **report["sections"]}


def _add_training(settings: RecipeSettings, fit: FitSettings, directory: Path) -> None:
    """How right the judges are, and the training's picture, at the end of the report."""
    draw(history_of(checkpoint_of(fit.output_dir, None))).savefig(directory / CURVES, dpi=100)
    rows = (_judge_row(name, settings.output_dir / name / JUDGE_REPORT) for name in JUDGES)
    columns = (
        "judge",
        "pairs learnt from",
        "pairs that no judge learnt from",
        "right",
        "the longer one is better",
        "picks it",
    )
    lines = [
        *heading("Judges", "A training is as good as its judge. One that is right half of the time knows nothing."),
        *table(columns, rows),
        "",
        *heading("Training", "docs/training.md says what healthy curves look like."),
        f"![{CURVES}]({CURVES})",
    ]
    with (directory / READABLE).open("a", encoding="utf-8") as page:
        page.write("\n" + "\n".join(lines) + "\n")


def _judge_row(name: str, report: Path) -> list[str]:
    found = json.loads(report.read_text(encoding="utf-8"))
    known = found["evaluation"][UNKNOWN][HEAD]
    right, error, *longer = (
        ABSENT if known[key] is None else f"{known[key]:.3f}"
        for key in ("accuracy", "standard_error", "longer_wins", "picks_longer")
    )
    return [name, str(found["heads"][HEAD]["train"]), str(known["pairs"]), f"{right} ± {error}", *longer]


def _generation(how: GenerationSettings, fit: FitSettings) -> GenerationSettings:
    """At the training's length and temperature where nothing else is said: a cut draft loses to a finished one."""
    trained = {"temperature": fit.rollout.temperature, "max_new_tokens": fit.rollout.max_new_tokens}
    return how.model_copy(update={key: value for key, value in trained.items() if key not in how.model_fields_set})
