"""The configuration of `slhf-train evaluate`: one YAML file. A section that is not there is not computed.

Relative paths start at the configuration's own folder.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from slhf_training.config_file import ModelName, RelativePath, Section
from slhf_training.data import DataSettings
from slhf_training.evaluation.chains import Chain, parsed, refined
from slhf_training.preference.registry import PreferenceSettings
from slhf_training.yaml_text import EngineArguments


def _a_chain(text: str) -> str:
    if not all(parsed(text)):
        raise ValueError("a model's name is missing beside '>'")
    return text


Player = Annotated[str, AfterValidator(_a_chain)]
"""A model's name, or names joined by ">": each refines the text before it (chains.py)."""


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
    """Of one answer. None: as the bundle is served; vllm alone can."""
    seed: int = Field(default=0, ge=0)
    batch_size: int = Field(default=32, gt=0)
    """Answers at once for hf, refinements at once for vllm."""
    engine: EngineArguments = {}
    """vLLM's engine arguments under their own names."""


class RoundRobinSettings(Section):
    players: tuple[Player, ...] = Field(min_length=2)


class RefinementSettings(Section):
    """Every follower refines every leader's draft, once."""

    leaders: tuple[str, ...] = Field(min_length=1)
    followers: tuple[str, ...] = Field(min_length=1)


class RoundsSettings(Section):
    leaders: tuple[str, ...] = Field(min_length=1)
    followers: tuple[str, ...] = Field(min_length=1)
    rounds: int = Field(default=5, gt=0)


class CyclesSettings(Section):
    models: tuple[str, ...] = Field(min_length=1)
    """Whose Leader is sampled."""
    samples: int = Field(default=20, gt=1)


class IFEvalSettings(Section):
    files: tuple[RelativePath, ...] = ()
    """JSONL(.gz) with `key`, `prompt`, `instruction_id_list` and `kwargs`, as Google publishes them."""
    hub: str | None = None
    """A data set of the same columns, such as google/IFEval."""
    players: tuple[Player, ...] = Field(min_length=1)
    checker: Literal["lm-eval", "exact"] = "lm-eval"
    """`lm-eval`: Google's checkers as lm-evaluation-harness ships them (the extra `ifeval`); `exact`: our own, for the
    kinds of instruction that need no tokenizer or language detector (instructions.py); other prompts are left out.
    """

    @model_validator(mode="after")
    def _some_source(self) -> Self:
        if not self.files and self.hub is None:
            raise ValueError("name at least one of files and hub")
        return self


class AlpacaEvalSettings(Section):
    """Answers for AlpacaEval's own annotators."""

    prompts: DataSettings
    players: tuple[Player, ...] = Field(min_length=1)


class EvaluateSettings(Section):
    output_dir: RelativePath
    models: dict[str, ModelSettings] = Field(min_length=1)
    prompts: DataSettings
    """Only the chats are used; each once."""
    preference: PreferenceSettings
    """Who judges: slhf_training.preference.registry."""
    generation: GenerationSettings = GenerationSettings()
    judge_batch_size: int = Field(default=256, gt=0)
    """Pairs that are judged, and then kept on disk, at once."""
    resamples: int = Field(default=1000, gt=0)
    """Of the bootstrap over prompts, whose 2.5 and 97.5 percentiles are the intervals."""
    round_robin: RoundRobinSettings | None = None
    refinement: RefinementSettings | None = None
    rounds: RoundsSettings | None = None
    cycles: CyclesSettings | None = None
    ifeval: IFEvalSettings | None = None
    alpaca_eval: AlpacaEvalSettings | None = None

    def chains(self) -> dict[str, list[Chain]]:
        """What has to be generated, by set of prompts: `prompts`, `ifeval`, `alpaca_eval`. Cycles sample besides."""
        main: list[Chain] = [parsed(player) for player in self.round_robin.players] if self.round_robin else []
        for section, rounds in ((self.refinement, 1), (self.rounds, self.rounds.rounds if self.rounds else 0)):
            if section is not None:
                main += [refined(one, two, rounds) for one in section.leaders for two in section.followers]
        if self.cycles is not None:
            main += [(name,) for name in self.cycles.models]
        found = {"prompts": main}
        for name, players in (("ifeval", self.ifeval), ("alpaca_eval", self.alpaca_eval)):
            found[name] = [parsed(player) for player in players.players] if players is not None else []
        return found

    @model_validator(mode="after")
    def _names_are_models(self) -> Self:
        if bad := next((name for name in self.models if ">" in name or name != name.strip() or not name), None):
            raise ValueError(f"models: {bad!r} is no name: it must not be blank, nor hold '>' or outer spaces")
        for chains in self.chains().values():
            for chain in chains:
                self._check(chain)
        if self.cycles and (bad := next((name for name in self.cycles.models if self.models[name].drafts), None)):
            raise ValueError(f"cycles.models: {bad!r} is a file of drafts and cannot be sampled")
        return self

    def _check(self, chain: Chain) -> None:
        for place, name in enumerate(chain):
            if name not in self.models:
                raise ValueError(f"{name!r} is none of the models {', '.join(self.models)}")
            if place > 0 and self.models[name].drafts is not None:
                raise ValueError(f"{name!r} is a file of drafts and refines nothing")


def bundles_of(models: Mapping[str, ModelSettings]) -> Iterator[tuple[str, str]]:
    return ((name, model.bundle) for name, model in models.items() if model.bundle is not None)


def drafts_of(models: Mapping[str, ModelSettings]) -> Iterator[tuple[str, Path, str | None]]:
    return ((name, model.drafts, model.model) for name, model in models.items() if model.drafts is not None)
