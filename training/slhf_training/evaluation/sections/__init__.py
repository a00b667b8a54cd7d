"""The sections of an evaluation, one file each: a module of this package with a `Measurement` is a section."""

import importlib
import inspect
import pkgutil
from typing import Any

from slhf_training.evaluation.measurement import Measurement


def registered() -> dict[str, type[Measurement[Any]]]:
    """By name, in the report's order."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    kinds = [
        kind
        for module in modules
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, Measurement) and kind.__module__ == module.__name__
    ]
    return {kind.name: kind for kind in sorted(kinds, key=lambda kind: kind.place)}
