"""A run of `slhf-train reward`: data, training, evaluation, and the report beside the model."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slhf_training.data import Example
from slhf_training.data.load import load
from slhf_training.errors import DataError
from slhf_training.models.load import bf16_is_fast
from slhf_training.reward import LoraHeads, ProbeHeads, RewardTraining
from slhf_training.reward.backbone import Backbone
from slhf_training.reward.evaluation import pair_report, score_report
from slhf_training.reward.model import Head, Manifest, RewardModel, vote
from slhf_training.reward.training import (
    EncodedExamples,
    RewardExample,
    add_adapter,
    both_sides,
    features_of,
    loss_of,
    probe,
    require_finite,
    scored,
    tune,
)
from slhf_training.types import sigmoid

REPORT = "report.json"
_LOG = logging.getLogger(__name__)
Report = dict[str, Any]
Sides = Mapping[str, tuple[list[RewardExample], list[RewardExample]]]


def train(settings: RewardTraining) -> Report:
    """Train, save and evaluate, and return the report.

    Raises DataError and SettingsError before anything is trained, and DivergedError before anything is saved.
    """
    started = time.monotonic()
    evaluation = {name: load(data) for name, data in settings.evaluation.items()}
    sides = {
        name: both_sides(load(head.data), head, settings.validation, settings.seed, name)
        for name, head in settings.heads.items()
    }
    for name, (learn, held) in sides.items():
        _LOG.info("%s: %d lessons to train, %d to validate", name, len(learn), len(held))
    model, trained = _trained(settings, sides)
    model.save(settings.output)
    _LOG.info("saved %s after %.0f s", settings.output, time.monotonic() - started)
    report = {
        "settings": settings.model_dump(mode="json"),
        "heads": trained,
        "evaluation": {
            name: _logged(name, _evaluated(settings, model, examples)) for name, examples in evaluation.items()
        },
        "seconds": round(time.monotonic() - started, 1),
    }
    (settings.output / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _trained(settings: RewardTraining, sides: Sides) -> tuple[RewardModel, Report]:
    match settings.training:
        case ProbeHeads():
            return _probed(settings, settings.training, sides)
        case LoraHeads():
            return _tuned(settings, settings.training, sides)


def _probed(settings: RewardTraining, how: ProbeHeads, sides: Sides) -> tuple[RewardModel, Report]:
    backbone = Backbone.load(settings.backbone, settings.layers, settings.max_tokens, settings.batch_tokens)
    features = features_of([lesson for learn, held in sides.values() for lesson in (*learn, *held)], backbone)
    dropped = sum(bool(row.isnan().any()) for row in features.values())
    _LOG.info("%d answers read; %d are longer than max_tokens and were dropped", len(features), dropped)
    heads, report = {}, {}
    for name, (learn, held) in sides.items():
        head, facts = probe(
            EncodedExamples.of(learn, features),
            EncodedExamples.of(held, features),
            how.l2,
            hold_length=settings.heads[name].hold_length,
        )
        heads[name] = head
        report[name] = facts | {"dropped": len(learn) + len(held) - facts["train"] - facts["validation"]}
        _LOG.info("%s: %s", name, report[name])
    return RewardModel(_manifest(settings, backbone, adapters=False), backbone, heads), report


def _tuned(settings: RewardTraining, how: LoraHeads, sides: Sides) -> tuple[RewardModel, Report]:
    # Adapters learn in float32; on a bf16 body their updates would be rounded away.
    limits = (settings.max_tokens, settings.batch_tokens)
    backbone = Backbone.load(settings.backbone, settings.layers, *limits, dtype="float32")
    backbone.autocast = bf16_is_fast()
    heads: dict[str, Head] = {}
    report = {}
    for name, (learn, held) in sides.items():
        torch.manual_seed(settings.seed)
        add_adapter(backbone, name, how)
        heads[name], facts = tune(backbone, learn, how, settings.seed)
        known = EncodedExamples.of(held, features_of(held, backbone))
        if not len(known.targets):
            raise DataError(f"heads.{name}: every text of the validation data is longer than max_tokens")
        loss = loss_of(heads[name](known.features.float()), known.targets.float())
        require_finite(heads[name], float(loss))
        report[name] = facts | {"validation": len(known.targets), "validation_loss": float(loss)}
        _LOG.info("%s: validation loss %.4f after %d steps", name, float(loss), facts["steps"])
    return RewardModel(_manifest(settings, backbone, adapters=True), backbone, heads), report


def _manifest(settings: RewardTraining, backbone: Backbone, *, adapters: bool) -> Manifest:
    name = settings.backbone
    return Manifest(
        backbone=str(Path(name).resolve()) if Path(name).exists() else name,
        layers=backbone.layers,
        max_tokens=settings.max_tokens,
        batch_tokens=settings.batch_tokens,
        heads=tuple(settings.heads),
        adapters=adapters,
    )


def _evaluated(settings: RewardTraining, model: RewardModel, examples: Sequence[Example]) -> Report:
    """Evaluate every head on the pairs and on scores of its own attribute, and the vote where heads are several."""
    report: Report = {}
    pairs = [(example, example.pair) for example in examples if example.pair]
    if pairs:
        kept = [example for example, _ in pairs]
        answers = [pair.chosen for _, pair in pairs], [pair.rejected for _, pair in pairs]
        a, b = model.both([example.chat for example in kept], *answers)
        report |= {name: pair_report(sigmoid(a[i] - b[i]), kept) for i, name in enumerate(model.heads)}
        if len(model.heads) > 1:
            report["vote"] = pair_report(vote(a, b), kept)
    for name, head in settings.heads.items():
        if head.attribute and (answered := scored(examples, head.attribute)):
            scores = model.scores([one.chat for one in answered], [one.answers[0] for one in answered], [name])[0]
            targets = np.array([one.target for one in answered])
            report[name] = report.get(name, {}) | {"scores": score_report(scores, targets)}
    return report


def _logged(name: str, report: Report) -> Report:
    for judge, facts in report.items():
        shown = {key: facts[key] for key in ("pairs", "accuracy", "standard_error", "ece", "scores") if key in facts}
        _LOG.info("%s by %s: %s", name, judge, shown)
    return report
