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


def distributions(hygiene: ModuleType, checkout: Path, more: str = "") -> None:
    for folder in hygiene.DISTRIBUTIONS:
        up = "../" * len(Path(folder).parts)
        track(checkout, f"{folder}/pyproject.toml", f'[tool.hatch.version]\npath = "{up}VERSION"\n{more}')


def test_a_version_behind_the_changelog_is_found(hygiene: ModuleType, checkout: Path) -> None:
    track(checkout, "CHANGELOG.md", "## 0.2.0\n")
    track(checkout, "VERSION", "0.1.0\n")
    distributions(hygiene, checkout)
    assert list(hygiene.versions()) == ["VERSION: 0.1.0, but CHANGELOG.md's newest is 0.2.0"]


def test_a_distribution_with_a_version_of_its_own_is_found(hygiene: ModuleType, checkout: Path) -> None:
    track(checkout, "CHANGELOG.md", "## 0.2.0\n")
    track(checkout, "VERSION", "0.2.0\n")
    distributions(hygiene, checkout)
    track(checkout, "server/pyproject.toml", '[project]\nversion = "0.2.0"\n')
    assert list(hygiene.versions()) == ["server/pyproject.toml: its version is not that of the file VERSION"]


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("Dockerfile", "ARG VERSION=0.1.9\n", "0.1.9"),
        ("docs/deployment.md", "| `cpu` | `slhf-server:0.1.9-cpu` |\n", "0.1.9"),
        ("deploy/helm/slhf/Chart.yaml", "appVersion: 0.1.9\n", "0.1.9"),
        ("training/pyproject.toml", '[tool.hatch.version]\npath = "../VERSION"\n# "slhf~=0.1.0"\n', "0.1.0"),
    ],
)
def test_an_older_version_that_is_written_out_is_found(
    hygiene: ModuleType, checkout: Path, name: str, text: str, found: str
) -> None:
    track(checkout, "CHANGELOG.md", "## 0.2.1\n")
    track(checkout, "VERSION", "0.2.1\n")
    distributions(hygiene, checkout, '# "slhf~=0.2.0"\n')
    assert list(hygiene.versions()) == []
    track(checkout, name, text)
    assert list(hygiene.versions()) == [f"{name}: {found}, but VERSION says 0.2.1"]


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
