"""What can be said of the distributions without building them; tests/deploy/test_release.py builds them."""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

FOLDERS = ("clients/python", "server", "training")


@pytest.fixture(params=FOLDERS)
def folder(root: Path, request: pytest.FixtureRequest) -> Path:
    return root / str(request.param)


@pytest.fixture
def project(folder: Path) -> dict[str, Any]:
    return dict(tomllib.loads((folder / "pyproject.toml").read_text())["project"])


def test_each_brings_the_licence(root: Path, folder: Path, project: dict[str, Any]) -> None:
    """A copy: a source distribution holds nothing from above its folder."""
    assert (folder / "LICENSE").read_bytes() == (root / "LICENSE").read_bytes()
    assert project["license-files"][0] == "LICENSE"
    assert all(list(folder.glob(pattern)) for pattern in project["license-files"])


def test_what_its_long_description_leads_to_is_there_on_an_index_too(folder: Path, project: dict[str, Any]) -> None:
    text = (folder / project["readme"]).read_text()
    assert re.findall(r"\]\((?!https?://|#)[^)]*\)", text) == []


def test_what_it_says_of_itself_is_there(project: dict[str, Any]) -> None:
    assert all(project[key] for key in ("description", "readme", "license", "keywords", "requires-python"))
    pythons = [one.rpartition(" ")[2] for one in project["classifiers"] if "Python :: 3." in one]
    assert pythons == ["3.11", "3.12", "3.13"]  # those that scripts/environment takes
    assert project["classifiers"] == sorted(project["classifiers"])


def test_it_is_built_by_the_pinned_hatchling(root: Path) -> None:
    pins = [
        re.findall(r"^hatchling==.*$", (root / name).read_text(), re.MULTILINE)
        for name in ("constraints.txt", "scripts/requirements-release.txt")
    ]
    assert pins[0] == pins[1] != []


def test_an_images_labels_are_arguments_of_its_build(root: Path) -> None:
    command = [str(root / "scripts" / "image-labels")]
    environ = os.environ | {"SOURCE_DATE_EPOCH": "0"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    flags, (version, revision, created) = done.stdout.split()[::2], done.stdout.split()[1::2]
    assert flags == ["--build-arg"] * 3
    assert version == f"VERSION={(root / 'VERSION').read_text().strip()}"
    assert re.fullmatch(r"REVISION=[0-9a-f]{40}(-dirty)?", revision)
    assert created == "CREATED=1970-01-01T00:00:00Z"
