"""An evaluation from its configuration to its report: read everything, write what is missing, judge, report."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slhf_training.bundles import fingerprint, open_bundle
from slhf_training.data import DataSettings, load
from slhf_training.evaluation import sections
from slhf_training.evaluation.answers import Answers, Slot
from slhf_training.evaluation.chains import Chain, with_drafts
from slhf_training.evaluation.comparisons import Comparisons, source_name
from slhf_training.evaluation.exports import export_alpaca_eval, export_ifeval
from slhf_training.evaluation.generation import Generator, generate
from slhf_training.evaluation.ifeval import Checker, Instructed, checker_of, read_instructed
from slhf_training.evaluation.markdown import markdown
from slhf_training.evaluation.plots import draw
from slhf_training.evaluation.prompts import Prompt, each_once, read_drafts
from slhf_training.evaluation.settings import EvaluateSettings, GenerationSettings, bundles_of, drafts_of
from slhf_training.evaluation.statistics import Bootstrap
from slhf_training.evaluation.store import Store
from slhf_training.evaluation.study import Study
from slhf_training.preference import Preference
from slhf_training.preference.cache import Cache
from slhf_training.preference.registry import PreferenceSettings, preference_of

if TYPE_CHECKING:
    from slhf_training.bundles import OpenBundle

ANSWERS, JUDGEMENTS, EXPORTS = "answers.jsonl", "judgements.sqlite", "exports"
REPORT, READABLE = "report.json", "report.md"
_LOG = logging.getLogger(__name__)

OpenModel = Callable[[str, "OpenBundle", str, GenerationSettings], AbstractContextManager[Generator]]
"""From a model's name, its bundle, the bundle's name in the configuration, and the sampling."""
Judge = Callable[[PreferenceSettings], Preference]


@dataclass(frozen=True, slots=True)
class Asked:
    """The prompts of each part, and the programs that check them."""

    main: dict[str, Prompt]
    alpaca_eval: dict[str, Prompt]
    ifeval: list[Instructed]
    check: Checker | None

    @property
    def every(self) -> dict[str, Prompt]:
        return self.main | self.alpaca_eval | {one.prompt.id: one.prompt for one in self.ifeval}


def evaluate(
    settings: EvaluateSettings,
    limit: int | None = None,
    opened: "OpenModel | None" = None,
    judge: Judge = preference_of,
) -> dict[str, Any]:
    """The report, which also lies in the output directory. `limit`: only the first prompts of each part.

    Raises SettingsError, DataError, EngineError and JudgeError; what was finished is kept, and the next run goes on.
    """
    started = time.monotonic()
    asked = _asked(settings, limit)
    drafts = {name: read_drafts(path, model) for name, path, model in drafts_of(settings.models)}
    bundles = {name: open_bundle(f"models.{name}", spec) for name, spec in bundles_of(settings.models)}
    fingerprints = {name: fingerprint(bundle, settings.generation) for name, bundle in bundles.items()}
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    with Store(settings.output_dir / ANSWERS) as store:
        answers = Answers(store, fingerprints, drafts)

        def model(name: str) -> AbstractContextManager[Generator]:
            _LOG.info("opening %s", name)
            spec = settings.models[name].bundle
            assert spec is not None  # drafts are never missing
            return (opened or open_model)(name, bundles[name], spec, settings.generation)

        written = generate(answers, _wanted(settings, asked), asked.every, settings.generation.seed, model)
        _LOG.info("%d answers written, after %.0f s", written, time.monotonic() - started)
        _export(settings, asked, answers)
        report = _judged(settings, asked, answers, judge)
    report["models"] = {name: _model_row(settings, name, bundles) for name in settings.models}
    report["seconds"] = round(time.monotonic() - started, 1)
    _write(report, settings.output_dir)
    return report


def open_model(
    name: str, bundle: "OpenBundle", spec: str, how: GenerationSettings
) -> AbstractContextManager[Generator]:
    if how.generator == "vllm":
        from slhf_training.evaluation.served import Served

        return Served(name, spec, how)
    from slhf_training.evaluation.plain import Plain

    return nullcontext(Plain(name, bundle, how))


def _asked(settings: EvaluateSettings, limit: int | None) -> Asked:
    instructed = read_instructed(settings.ifeval, limit) if settings.ifeval else []
    check = checker_of(settings.ifeval) if settings.ifeval else None
    alpaca = _prompts(settings.alpaca_eval.prompts, limit) if settings.alpaca_eval else {}
    return Asked(_prompts(settings.prompts, limit), alpaca, instructed, check)


def _prompts(data: DataSettings, limit: int | None) -> dict[str, Prompt]:
    prompts = each_once(Prompt(example.chat, example.id) for example in load(data))
    return {prompt.id: prompt for prompt in prompts[:limit]}


def _wanted(settings: EvaluateSettings, asked: Asked) -> list[Slot]:
    """Everything that the sections look at, drafts before what refines them."""
    chains = settings.chains()
    prompts = {
        "prompts": asked.main,
        "alpaca_eval": asked.alpaca_eval,
        "ifeval": [one.prompt.id for one in asked.ifeval],
    }
    found: dict[Slot, None] = {}
    for part, ids in prompts.items():
        found.update(dict.fromkeys(Slot(chain, prompt) for chain in with_drafts(chains[part]) for prompt in ids))
    if settings.cycles is not None:
        for name in settings.cycles.models:
            numbers = range(1, settings.cycles.samples)
            found.update(dict.fromkeys(Slot((name,), prompt, number) for prompt in asked.main for number in numbers))
    return list(found)


def _export(settings: EvaluateSettings, asked: Asked, answers: Answers) -> None:
    chains: Mapping[str, list[Chain]] = settings.chains()
    folder = settings.output_dir / EXPORTS
    export_alpaca_eval(folder, chains["alpaca_eval"], asked.alpaca_eval, answers)
    export_ifeval(folder, chains["ifeval"], asked.ifeval, answers)


def _judged(settings: EvaluateSettings, asked: Asked, answers: Answers, judge: Judge) -> dict[str, Any]:
    name = source_name(settings.preference)
    with closing(Cache(settings.output_dir / JUDGEMENTS)) as cache:
        comparisons = Comparisons(judge(settings.preference), name, cache, settings.judge_batch_size)
        study = Study(asked.main, answers, comparisons, Bootstrap(settings.resamples))
        found = _sections(settings, study, asked)
    return {
        "prompts": len(asked.main),
        "resamples": settings.resamples,
        "judgements": {"asked": comparisons.asked, "abstained": comparisons.abstained},
        "settings": settings.model_dump(mode="json"),
        "sections": found,
    }


def _sections(settings: EvaluateSettings, study: Study, asked: Asked) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if settings.round_robin is not None:
        found["round_robin"] = sections.round_robin(study, settings.round_robin)
    if settings.refinement is not None:
        found["refinement"] = sections.refinement(study, settings.refinement)
    if settings.rounds is not None:
        sampled = {} if settings.cycles is None else dict.fromkeys(settings.cycles.models, settings.cycles.samples)
        found["rounds"] = sections.rounds(study, settings.rounds, sampled)
    if settings.cycles is not None:
        found["cycles"] = sections.cycles(study, settings.cycles)
    if settings.ifeval is not None and asked.check is not None:
        found["ifeval"] = sections.ifeval(study, settings.ifeval, asked.ifeval, asked.check)
    return found


def _model_row(settings: EvaluateSettings, name: str, bundles: Mapping[str, "OpenBundle"]) -> dict[str, Any]:
    row = settings.models[name].model_dump(mode="json", exclude_none=True)
    if name in bundles:
        manifest = bundles[name].manifest
        row |= {"name": manifest.name, "revision": manifest.revision, "trained": manifest.trained}
    return row


def _write(report: Mapping[str, Any], folder: Path) -> None:
    (folder / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / READABLE).write_text(markdown(report), encoding="utf-8")
    draw(report, folder)
