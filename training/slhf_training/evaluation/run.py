"""An evaluation from its configuration to its report: read everything, write what is missing, judge, report."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slhf_training.evaluation import EvaluateSettings, GenerationSettings, bundles_of, drafts_of, fingerprint
from slhf_training.evaluation.answers import GIVEN, Answers, Store
from slhf_training.evaluation.generation import Generator, generate
from slhf_training.evaluation.pages import table
from slhf_training.evaluation.prompts import Prompt, read_drafts, read_prompts
from slhf_training.evaluation.sections import Measurement, registered
from slhf_training.evaluation.statistics import Bootstrap
from slhf_training.evaluation.study import Comparisons, SectionData, source_name
from slhf_training.models.bundles import open_bundle
from slhf_training.preference import Cache, Preference, PreferenceSettings, SourceSettings, preference_of

if TYPE_CHECKING:
    from slhf_training.models.bundles import OpenBundle


REPORT, READABLE = "report.json", "report.md"


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    (folder / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / READABLE).write_text(markdown(report), encoding="utf-8")
    for name, kind in registered().items():
        if name in report["sections"] and (picture := kind.picture(report["sections"][name])) is not None:
            picture.savefig(folder / f"{name}.png", dpi=150)


def markdown(report: Mapping[str, Any]) -> str:
    """What is most worth reading comes first: a section's summary, then what the figures are, then the sections."""
    found = {kind: report["sections"][name] for name, kind in registered().items() if name in report["sections"]}
    lines = ["# Evaluation", ""]
    for kind, figures in found.items():
        lines += kind.summary(figures)
    lines += _facts(report)
    for kind, figures in found.items():
        lines += ["", *kind.markdown(figures)]
    return "\n".join(lines) + "\n"


def _facts(report: Mapping[str, Any]) -> Iterator[str]:
    prompts = f"{report['prompts']} prompts. " if report["prompts"] else ""
    yield f"{prompts}A figure is followed by its 95 % interval from {report['resamples']} resamples of the prompts." + (
        " *Preference* is the mean of p, *preferred* counts p > 1/2 as one and ties as half, *length-controlled* is "
        "the win rate at equal length (logistic regression, as AlpacaEval 2). "
        f"The judge abstained from {report['judgements']['abstained']} of the pairs."
        if report["settings"]["preference"] is not None
        else ""
    )
    yield ""
    yield from table(
        ["model", "from", "trained", "revision"],
        (
            [name, model.get("bundle") or model.get("drafts"), model.get("trained"), model.get("revision")]
            for name, model in report["models"].items()
        ),
    )


ANSWERS, JUDGEMENTS, EXPORTS = "answers.jsonl", "judgements.sqlite", "exports"
_LOG = logging.getLogger(__name__)

OpenModel = Callable[[str, "OpenBundle", str, GenerationSettings], AbstractContextManager[Generator]]
"""Opens a model, given its name, its bundle, the bundle's name in the configuration, and the sampling."""
PreferenceOf = Callable[[PreferenceSettings], Preference]
Measured = Mapping[str, Measurement[Any]]
"""What is computed, by the section's name."""


def evaluate(
    settings: EvaluateSettings,
    limit: int | None = None,
    opened: "OpenModel | None" = None,
    judge: PreferenceOf = preference_of,
) -> dict[str, Any]:
    """The report, which also lies in the output directory. `limit`: only the first prompts of each part.

    Raises SettingsError, DataError, EngineError and JudgeError; what was finished is kept, and the next run goes on.
    """
    started = time.monotonic()
    main = {} if settings.prompts is None else read_prompts(settings.prompts, limit)
    measured = {name: registered()[name](how, main, limit) for name, how in settings.sections().items()}
    bundles = {name: open_bundle(f"models.{name}", spec) for name, spec in bundles_of(settings.models)}
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    with Store(settings.output_dir / ANSWERS) as store:
        answers = _answers(settings, measured, bundles, store)

        def model(name: str) -> AbstractContextManager[Generator]:
            _LOG.info("opening %s", name)
            spec = settings.models[name].bundle
            assert spec is not None  # drafts are never missing
            return (opened or open_model)(name, bundles[name], spec, settings.generation)

        wanted = list(dict.fromkeys(slot for one in measured.values() for slot in one.wanted()))
        prompts = main | {prompt.id: prompt for one in measured.values() for prompt in one.prompts.values()}
        written = generate(answers, wanted, prompts, settings.generation.seed, model)
        _LOG.info("%d answers written, after %.0f s", written, time.monotonic() - started)
        for one in measured.values():
            one.export(settings.output_dir / EXPORTS, answers)
        report = _judged(settings, main, measured, answers, judge)
    report["models"] = {name: _model_row(settings, name, bundles) for name in settings.models}
    report["seconds"] = round(time.monotonic() - started, 1)
    write_report(report, settings.output_dir)
    directories = {name: bundle.directory for name, bundle in bundles.items()}
    for name, figures in report["sections"].items():
        measured[name].publish(figures, directories)
    return report


def open_model(
    name: str, bundle: "OpenBundle", spec: str, how: GenerationSettings
) -> AbstractContextManager[Generator]:
    if how.generator == "vllm":
        from slhf_training.evaluation.served import Served

        return Served(name, spec, how)
    from slhf_training.evaluation.generation import Plain

    return nullcontext(Plain(name, bundle, how))


def _answers(
    settings: EvaluateSettings, measured: Measured, bundles: Mapping[str, "OpenBundle"], store: Store
) -> Answers:
    drafts = {name: read_drafts(path, model) for name, path, model in drafts_of(settings.models)}
    drafts[GIVEN] = {prompt: text for one in measured.values() for prompt, text in one.given().items()}
    fingerprints = {name: fingerprint(bundle, settings.generation) for name, bundle in bundles.items()}
    return Answers(store, fingerprints, drafts)


def _judged(
    settings: EvaluateSettings, main: Mapping[str, Prompt], measured: Measured, answers: Answers, judge: PreferenceOf
) -> dict[str, Any]:
    of_main = [one for one in measured.values() if one.prompts is main]
    samples = {name: n for one in of_main for name, n in one.sampled(one.how).items()}
    with ExitStack() as stack:

        def judge_of(source: SourceSettings) -> Comparisons:
            cache = stack.enter_context(closing(Cache(settings.output_dir / JUDGEMENTS)))
            return Comparisons(judge(source), source_name(source), cache, settings.judge_batch_size)

        comparisons = None if settings.preference is None else judge_of(settings.preference)
        study = SectionData(main, answers, comparisons, Bootstrap(settings.resamples), judge_of, samples)
        found = {name: one.figures(replace(study, prompts=one.prompts)) for name, one in measured.items()}
    return {
        "prompts": len(main),
        "resamples": settings.resamples,
        "judgements": {
            "asked": comparisons.asked if comparisons else 0,
            "abstained": comparisons.abstained if comparisons else 0,
        },
        "settings": settings.model_dump(mode="json"),
        "sections": {name: figures for name, figures in found.items() if figures is not None},
    }


def _model_row(settings: EvaluateSettings, name: str, bundles: Mapping[str, "OpenBundle"]) -> dict[str, Any]:
    row = settings.models[name].model_dump(mode="json", exclude_none=True)
    if name in bundles:
        manifest = bundles[name].manifest
        row |= {"name": manifest.name, "revision": manifest.revision, "trained": manifest.trained}
    return row
