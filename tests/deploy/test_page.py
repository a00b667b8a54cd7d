"""docs/deployment.md: its commands and names, against the files they are about."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from slhf_server.settings.reading import load_settings
from slhf_server.settings.server import Settings
from tests.deploy.programs import DEPLOY, ROOT, run

PAGE = (ROOT / "docs" / "deployment.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[list[str]]:
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(f"{program} ")]


def values() -> str:
    (written,) = blocks("yaml")
    return written


@pytest.mark.parametrize("command", commands("docker compose"), ids=" ".join)
def test_compose_takes_its_commands(command: list[str]) -> None:
    options, (_, build, *services) = command[2 : command.index("up")], command[command.index("up") :]
    assert build == "--build"
    done = run("docker-compose", *options, "config", "--services")
    assert done.returncode == 0, done.stderr
    assert set(services) <= set(done.stdout.split())


def test_images_are_built_from_targets_with_their_tags() -> None:
    targets = re.findall(r" AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    table = dict(re.findall(r"^\| `(\w+)` \| `slhf-server:[\d.]+-(\w+)` ", PAGE, re.MULTILINE))
    assert set(table) == set(targets) - {
        "installed",
        "installed_gateway",
        "weights",
    }  # which only give files to the images
    assert [target for target, tag in table.items() if target != tag] == []
    for command in commands("docker build"):
        assert command[command.index("-t") + 1].endswith(f"0.1.0-{command[command.index('--target') + 1]}")


def test_files_and_folders_are_there() -> None:
    page = ROOT / "docs"
    links = re.findall(r"\]\(([^)#]+)(?:#\w+)?\)", PAGE)
    paths = re.findall(r"\bdeploy/[\w./]+\b", PAGE)
    missing = [name for name in links if not (page / name).exists()]
    assert missing + [name for name in paths if not (ROOT / name).exists()] == []


def test_helm_renders_its_values(tmp_path: Path) -> None:
    file = tmp_path / "slhf.yaml"
    file.write_text(values())
    done = run("helm", "template", "slhf", str(DEPLOY / "helm" / "slhf"), "--values", str(file))
    assert done.returncode == 0, done.stderr
    services = [one for one in yaml.safe_load_all(done.stdout) if one["kind"] == "Service"]
    assert [(one["metadata"]["name"], one["spec"]["ports"][0]["port"]) for one in services] == [("slhf", 8000)]


def test_the_server_takes_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(values())["settings"]))
    assert load_settings(["--config", str(file)]).limits.running == 64


def test_the_chart_has_every_value_named() -> None:
    chart: dict[str, Any] = yaml.safe_load((DEPLOY / "helm" / "slhf" / "values.yaml").read_text())
    rows = re.findall(r"^\| (`.*?`) \|", PAGE.partition("## Kubernetes")[2], re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    assert "gpu.count" in named
    of_the_server = [name.removeprefix("settings.") for name in named if name.startswith("settings.")]
    assert set(of_the_server) <= Settings.model_fields.keys()
    for name in [*set(named) - {f"settings.{one}" for one in of_the_server}, *re.findall(r"`(autoscaling\.\w+)", PAGE)]:
        value: Any = chart
        for key in name.split("."):
            value = value[key]
