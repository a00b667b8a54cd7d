import subprocess
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def checkout(hygiene: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty git repository that the checks look at."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.setattr(hygiene, "ROOT", tmp_path)
    return tmp_path


def track(checkout: Path, name: str, text: str) -> None:
    (checkout / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout / name).write_text(text)
    subprocess.run(["git", "add", name], cwd=checkout, check=True)


@pytest.mark.parametrize(
    ("changelog", "version"),
    [
        ("# Changes\n\n## Unreleased\n\n## 0.2.0\n\n## 0.1.0\n", "0.2.0"),
        ("## [1.0.0rc1] - 2026-11-01\n", "1.0.0rc1"),
        ("# Changes\n", None),
    ],
)
def test_the_first_numbered_heading_is_the_newest_version(
    hygiene: ModuleType, changelog: str, version: str | None
) -> None:
    assert hygiene.newest_version(changelog) == version


def test_a_distribution_behind_the_changelog_is_found(hygiene: ModuleType, checkout: Path) -> None:
    track(checkout, "CHANGELOG.md", "## 0.2.0\n")
    for folder, version in zip(hygiene.DISTRIBUTIONS, ("0.2.0", "0.1.0", "0.2.0"), strict=True):
        track(checkout, f"{folder}/pyproject.toml", f'[project]\nversion = "{version}"\n')
    assert list(hygiene.versions()) == ["server/pyproject.toml: version 0.1.0, but CHANGELOG.md's newest is 0.2.0"]


def test_lock_files_are_found_once_tracked(hygiene: ModuleType, checkout: Path) -> None:
    (checkout / "uv.lock").touch()
    assert list(hygiene.lock_files()) == []
    track(checkout, "clients/examples/package-lock.json", "{}")
    assert [line.partition(":")[0] for line in hygiene.lock_files()] == ["clients/examples/package-lock.json"]


@pytest.mark.parametrize("host", [("pypi", "org"), ("files", "pythonhosted", "org"), ("registry", "npmjs", "org")])
def test_a_registry_host_is_found_with_its_line(hygiene: ModuleType, checkout: Path, host: tuple[str, ...]) -> None:
    track(checkout, "notes.md", f"from PyPI. See\nhttps://{'.'.join(host)}/x\n")
    assert [line.split(" ")[0] for line in hygiene.hosts()] == ["notes.md:2:"]


def test_a_path_of_one_machine_is_found_outside_container_files(hygiene: ModuleType, checkout: Path) -> None:
    path = "/".join(["", "home", "me", "model"])
    for name in ("notes.md", "Dockerfile", "deploy/compose.yaml"):
        track(checkout, name, f"model: {path}\nsee https://host.test{path} and ~{path}\n")
    assert [line.split(" ")[0] for line in hygiene.paths()] == ["notes.md:1:"]


def test_a_script_that_does_not_parse_is_found(hygiene: ModuleType, checkout: Path) -> None:
    track(checkout, "good", "#!/usr/bin/env bash\necho good\n")
    track(checkout, "bad", "#!/usr/bin/env bash\nif then\n")
    assert [line.partition(":")[0] for line in hygiene.shell()] == ["bad"]
