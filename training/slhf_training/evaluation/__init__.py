"""Evaluation of Leaders and Followers as the paper does it: answers, judgements, statistics, one report.

Imported by distill and lessons.

Here is the configuration of `slhf-train evaluate`: one YAML file. A section that is not there is not computed. Relative
paths start at the configuration's own folder.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, create_model, model_validator

from slhf.bundle import revision_of
from slhf_training.config import EngineArguments, ModelName, RelativePath, Section
from slhf_training.data.load import DataSettings
from slhf_training.evaluation.answers import GIVEN, Chain
from slhf_training.evaluation.sections import registered
from slhf_training.preference import PreferenceSettings
from slhf_training.types import digest

if TYPE_CHECKING:
    from slhf_training.models.bundles import OpenBundle


class ModelSettings(Section):
    """Either a bundle or drafts."""

    bundle: ModelName | None = None
    """builtin:smollm2-135m-slhf, a hub id, or a directory's path that starts with ".", "/" or "~"."""
    drafts: RelativePath | None = None
    """JSONL(.gz) with `output`, `prompt` (or `instruction`, `messages`) and `model`: a model that is not run."""
    model: str | None = None
    """Only the drafts whose `model` this is; None: all."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.bundle is None) == (self.drafts is None):
            raise ValueError("give exactly one of bundle and drafts")
        if self.model is not None and self.drafts is None:
            raise ValueError("model chooses among drafts; a bundle has no use for it")
        return self


class GenerationSettings(Section):
    generator: Literal["vllm", "hf"] = "vllm"
    """`hf`: transformers, on whatever torch runs on; slow, but it needs no vLLM."""
    temperature: float | None = Field(default=0.9, ge=0, le=2)
    """All models sample at it and at nothing else (no top-p). None: as the bundle is served; vllm alone can."""
    max_new_tokens: int | None = Field(default=512, gt=0)
    """Tokens of one answer. None: as the bundle is served; vllm alone can."""
    seed: int = Field(default=0, ge=0)
    batch_size: int = Field(default=32, gt=0)
    """Answers at once for hf, refinements at once for vllm."""
    engine: EngineArguments = {}
    """vLLM's engine arguments under their own names."""
    cpu_quantization: Literal["auto", "none", "int8"] | None = None
    """The server's key of this name, for vllm. None: as the server decides. What is set here is part of a writer's
    fingerprint, so that int8 and bfloat16 can be compared in one output directory, one run after the other."""
    run_examples: bool = False
    """Whether programs run on the examples of their prompts, as the server does where its setting of this name is on;
    for vllm."""


class EvaluateSettings(Section):
    """What all sections share; `evaluate_settings` adds a key for each of them."""

    output_dir: RelativePath
    models: dict[str, ModelSettings] = Field(min_length=1)
    prompts: DataSettings | None = None
    """Only the chats are used; each once. None: no section asks for them."""
    preference: PreferenceSettings | None = None
    """The judge (slhf_training.preference). None: nothing is judged."""
    generation: GenerationSettings = GenerationSettings()
    judge_batch_size: int = Field(default=256, gt=0)
    """Pairs that are judged, and then kept on disk, at once."""
    resamples: int = Field(default=1000, gt=0)
    """Resamples of the bootstrap over prompts, whose 2.5 and 97.5 percentiles are the intervals."""

    def sections(self) -> dict[str, Section]:
        """The sections that are to be computed, by name, in the report's order."""
        return {name: how for name in registered() if (how := getattr(self, name, None)) is not None}

    @model_validator(mode="after")
    def _names_are_models(self) -> Self:
        if bad := next((name for name in self.models if ">" in name or name != name.strip() or not name), None):
            raise ValueError(f"models: {bad!r} is no name: it must not be blank, nor hold '>' or outer spaces")
        if GIVEN in self.models:
            raise ValueError(f"models: {GIVEN!r} is the name of drafts that come with the data")
        return self

    @model_validator(mode="after")
    def _sections_find_what_they_need(self) -> Self:
        for name, how in self.sections().items():
            kind = registered()[name]
            for chain in kind.chains(how):
                self._check(chain)
            for model in kind.sampled(how):
                self._check((model,))
                if self.models[model].drafts is not None:
                    raise ValueError(f"{name}: {model!r} is a file of drafts and cannot be sampled")
            if missing := sorted(key for key in kind.needs if getattr(self, key) is None):
                raise ValueError(f"{name} needs {' and '.join(missing)}")
            kind.check(how, dict(bundles_of(self.models)), self.preference)
        return self

    def _check(self, chain: Chain) -> None:
        for place, name in enumerate(chain):
            if name not in self.models:
                raise ValueError(f"{name!r} is none of the models {', '.join(self.models)}")
            if place > 0 and self.models[name].drafts is not None:
                raise ValueError(f"{name!r} is a file of drafts and refines nothing")


def evaluate_settings() -> type[EvaluateSettings]:
    """The settings with a key for each section that there is."""
    fields: dict[str, Any] = {name: (kind.settings | None, None) for name, kind in registered().items()}
    return create_model("EvaluateSettings", __base__=EvaluateSettings, **fields)


def bundles_of(models: Mapping[str, ModelSettings]) -> Iterator[tuple[str, str]]:
    return ((name, model.bundle) for name, model in models.items() if model.bundle is not None)


def drafts_of(models: Mapping[str, ModelSettings]) -> Iterator[tuple[str, Path, str | None]]:
    return ((name, model.drafts, model.model) for name, model in models.items() if model.drafts is not None)


_NOT_WRITING = {"evaluation", "judge", "select", "stop_rules", "stop_when"}
"""What a manifest says of a bundle that changes no text that it writes."""


def fingerprint(bundle: "OpenBundle", generation: "GenerationSettings") -> str:
    """A digest of all that decides what a bundle writes: its files, its manifest and the sampling."""
    unsaid = set() if generation.run_examples else {"run_examples"}  # runs of before it was there go on
    how = generation.model_dump(mode="json", exclude={"batch_size"} | unsaid)
    return digest(
        [
            revision_of(bundle.directory),
            bundle.manifest.model_dump(mode="json", exclude=_NOT_WRITING),
            how,
        ]
    )
