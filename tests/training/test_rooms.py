"""The rooms of training: which may import which, and how many files there are (docs/design.md)."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TRAINING = Path(__file__).resolve().parents[2] / "training"
PACKAGE = "slhf_training"
WORDS = frozenset({"types", "config", "errors"})
"""What every room may import."""
ROOMS = {
    "types": frozenset(),
    "errors": frozenset(),
    "config": frozenset({"errors"}),
    "checks": WORDS,
    "data": WORDS | {"checks"},
    "instructions": WORDS | {"checks", "data"},
    "models": WORDS,
    "rollout": WORDS | {"models"},
    "reward": WORDS | {"data", "models"},
    "preference": WORDS | {"checks", "data", "instructions", "models", "reward"},
    "fit": WORDS | {"data", "models", "preference", "reward", "rollout"},
    "evaluation": WORDS | {"checks", "data", "instructions", "models", "preference", "reward", "rollout"},
    "distill": WORDS | {"data", "evaluation", "fit", "models", "preference"},
    "imitation": WORDS | {"data", "fit", "models"},
    "lessons": WORDS | {"checks", "data", "evaluation", "models"},
    "recipe": WORDS | {"data", "evaluation", "fit", "reward"},
    "tabular": WORDS,
}
SETTINGS = (
    "fit.FitSettings",
    "distill.DistillSettings",
    "imitation.ImitateSettings",
    "recipe.RecipeSettings",
    "lessons.settings.LessonsSettings",
    "reward.RewardTraining",
    "evaluation.evaluate_settings()",
    "evaluation.judging.JudgingSettings",
)


def modules() -> dict[str, Path]:
    """By name, without the package's."""
    found = {}
    for path in sorted((TRAINING / PACKAGE).rglob("*.py")):
        parts = path.relative_to(TRAINING / PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Names below the package, imported late or for types alone too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (
                alias.name.removeprefix(f"{PACKAGE}.") for alias in node.names if alias.name.startswith(PACKAGE)
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE:
            yield from (f"{node.module}.{alias.name}".removeprefix(f"{PACKAGE}.") for alias in node.names)


def arrows() -> dict[str, set[str]]:
    """Of each module the modules that it imports."""
    known = modules()
    found: dict[str, set[str]] = {}
    for module, path in known.items():
        found[module] = {name if name in known else name.rpartition(".")[0] for name in imported(path)} - {module, ""}
    return found


def test_the_package_stays_small_enough_to_be_known() -> None:
    """A module is a file of about 150 lines; what lies beside the rooms is what all of them share.

    Each one over 90 is something that users ask for by a name of its own: a preference source, a section, a
    command.
    """
    found = modules()
    assert len(found) <= 105
    assert len([name for name, path in found.items() if path.parent == TRAINING / PACKAGE]) <= 6


def test_no_modules_import_each_other_in_a_circle() -> None:
    found = arrows()
    assert len(found) > 50
    assert list(graphlib.TopologicalSorter(found).static_order())


def test_each_room_imports_what_the_design_says() -> None:
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for module, others in arrows().items():
        room = module.partition(".")[0]
        if room not in ("", "cli"):
            found[room] |= {other.partition(".")[0] for other in others} - {room}
    assert {room: sorted(others - ROOMS[room]) for room, others in found.items() if others - ROOMS[room]} == {}


def test_the_rooms_of_the_design_are_in_one_order() -> None:
    assert list(graphlib.TopologicalSorter(ROOMS).static_order())


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_need_neither_torch_nor_transformers(name: str) -> None:
    module, _, settings = name.rpartition(".")
    program = (
        f"import sys; import {PACKAGE}.{module} as module; module.{settings};"
        "print({'torch', 'transformers', 'vllm'} & sys.modules.keys())"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert said.stdout == "set()\n"
