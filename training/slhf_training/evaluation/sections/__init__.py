"""The sections of an evaluation, one file each: a module of this package with a `Measurement` is a section."""

import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from matplotlib.figure import Figure

from slhf_training.config import Section
from slhf_training.evaluation.answers import Answers, Chain, Slot, with_drafts
from slhf_training.evaluation.prompts import Prompt
from slhf_training.evaluation.study import Figures, SectionData
from slhf_training.preference import SourceSettings

How = TypeVar("How", bound=Section)


class Measurement(ABC, Generic[How]):
    """One of each section that a configuration has; `sections.registered` finds the classes."""

    name: ClassVar[str]
    """Its key in the configuration and in the report."""
    place: ClassVar[int]
    """Its place in the report; smaller ones come first."""
    settings: ClassVar[type[Section]]
    needs: ClassVar[frozenset[str]] = frozenset({"prompts", "preference"})
    """Keys of the configuration that may not be missing beside it."""

    def __init__(self, how: How, main: Mapping[str, Prompt], limit: int | None) -> None:
        """`main`: the configuration's `prompts` by id. `limit`: only the first so many prompts of data of its own.

        Raises DataError and SettingsError for what its settings name.
        """
        self.how, self.prompts = how, main

    @classmethod
    @abstractmethod
    def chains(cls, how: How) -> list[Chain]:
        """The players of the settings, whose names are checked."""

    @classmethod
    def check(cls, how: How, bundles: Mapping[str, str], preference: SourceSettings | None) -> None:
        """Raises ValueError where its settings do not go with the configuration's bundles, by model, or its judge."""
        return None

    @classmethod
    def sampled(cls, how: How) -> Mapping[str, int]:
        """Models whose Leader answers a prompt several times, and how often."""
        return {}

    def given(self) -> Mapping[str, str]:
        """Drafts that its data hold, by the id of the prompt that they answer."""
        return {}

    def wanted(self) -> list[Slot]:
        """The answers to write, drafts before what refines them."""
        slots = [Slot(chain, prompt) for chain in with_drafts(self.chains(self.how)) for prompt in self.prompts]
        for name, samples in self.sampled(self.how).items():
            slots += [Slot((name,), prompt, number) for prompt in self.prompts for number in range(1, samples)]
        return slots

    def export(self, folder: Path, answers: Answers) -> None:
        """Write files for other programs; most sections have none."""
        return None

    def publish(self, figures: Mapping[str, Any], directories: Mapping[str, Path]) -> None:
        """Write what was found into the bundles' directories, by model; most sections leave them alone."""
        return None

    @abstractmethod
    def figures(self, study: SectionData) -> Figures | None:
        """Plain data, of a study of this section's prompts. None: nothing to report."""

    @staticmethod
    def summary(figures: Mapping[str, Any]) -> Iterator[str]:
        """Lines of Markdown that stand before everything else in the report."""
        return iter(())

    @staticmethod
    @abstractmethod
    def markdown(figures: Mapping[str, Any]) -> Iterator[str]:
        """Its lines, from the figures and nothing else."""

    @staticmethod
    def picture(figures: Mapping[str, Any]) -> Figure | None:
        """The section's picture; None: it has none."""
        return None


def registered() -> dict[str, type[Measurement[Any]]]:
    """The sections by name, in the report's order."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    kinds = [
        kind
        for module in modules
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, Measurement) and kind.__module__ == module.__name__
    ]
    return {kind.name: kind for kind in sorted(kinds, key=lambda kind: kind.place)}
