import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    """scripts/ is no package: its files run without one, before anything is installed."""
    spec = importlib.util.spec_from_file_location(f"slhf_scripts_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def environment() -> ModuleType:
    return load("environment")


@pytest.fixture(scope="session")
def hygiene() -> ModuleType:
    return load("hygiene")
