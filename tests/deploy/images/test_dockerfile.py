"""What can be said about the images without building them; the other files here build and start them."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.deploy.images.containers import copy_context
from tests.deploy.programs import ROOT, run

WITH_ENGINE = ("gpu", "cpu")
TARGETS = (*WITH_ENGINE, "gateway")
ALL = (*TARGETS, "ray", "training")


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def stages(dockerfile: str) -> dict[str, str]:
    """Each stage's text by its name."""
    parts = re.split(r"^FROM \S+ AS (\w+)\n", dockerfile, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def pin(package: str) -> str:
    (version,) = re.findall(rf"^{package}==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return str(version)


def test_hadolint_finds_nothing() -> None:
    done = run("hadolint", "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_the_gpus_base_has_the_vllm_that_is_pinned(dockerfile: str) -> None:
    assert f"vllm-openai:v{pin('vllm')}\n" in dockerfile


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_is_labelled_with_what_it_is_built_from(stages: dict[str, str], target: str) -> None:
    told = dict(re.findall(r'image\.(version|revision|created)="\$(\w+)"', stages[target]))
    assert told == {"version": "VERSION", "revision": "REVISION", "created": "CREATED"}
    assert re.findall(r"^ARG (\w+)$", stages[target], re.MULTILINE)[-3:] == ["VERSION", "REVISION", "CREATED"]


@pytest.mark.parametrize("target", ALL)
def test_an_image_has_a_title_and_a_description_of_its_own(stages: dict[str, str], target: str) -> None:
    assert len(re.findall(r'image\.(title|description)="[^"]+"', stages[target])) == 2


@pytest.mark.parametrize("target", ALL)
def test_an_image_lists_what_it_is_made_of_where_scanners_look(stages: dict[str, str], target: str) -> None:
    assert re.search(r"/usr/share/slhf/sbom\.cdx\.json|sbom\.cdx\.json /usr/share/slhf/", stages[target])


def test_what_writes_the_list_is_pinned_as_in_a_release() -> None:
    pins = [
        re.findall(r"^cyclonedx-bom==.*$", (ROOT / "scripts" / name).read_text(), re.MULTILINE)
        for name in ("requirements-sbom.txt", "requirements-release.txt")
    ]
    assert pins[0] == pins[1] != []


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_without_rights_and_says_whether_it_is_ready(stages: dict[str, str], target: str) -> None:
    text = stages[target]
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE)[-1] == "10001:0"
    assert "/ready" in text.partition("HEALTHCHECK")[2]
    assert "VOLUME /cache" in text
    instructions = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert instructions[-1] == 'ENTRYPOINT ["slhf-server"]'


def test_the_training_image_is_the_gpus_with_slhf_train(dockerfile: str, stages: dict[str, str]) -> None:
    """Its engine, its user and what runs without rights are those of the base."""
    assert "\nFROM gpu AS training\n" in dockerfile
    text = stages["training"]
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["0", "10001:0"]
    instructions = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert instructions[-1] == 'ENTRYPOINT ["slhf-train"]'
    assert "HEALTHCHECK NONE" in instructions  # it serves nothing that could be asked
    assert '"/src/training[evaluate]"' in text


def test_what_a_training_makes_stays_in_a_volume_for_any_user_of_the_group(stages: dict[str, str]) -> None:
    text = stages["training"]
    assert re.findall(r"^(WORKDIR|VOLUME) (.*)$", text, re.MULTILINE) == [("WORKDIR", "/runs"), ("VOLUME", "/runs")]
    assert "install --directory --owner=10001 --group=0 --mode=2775 /runs" in text


def test_what_the_images_install_can_be_built_from_the_context(dockerfile: str, tmp_path: Path) -> None:
    """Each package that a stage installs is there with what its pyproject.toml names: its code and its README."""
    copy_context(tmp_path)
    installed = {name for name in re.findall(r'["\s]/src/([\w/]+)(?=[\s"\[])', dockerfile) if "environment" not in name}
    assert installed == {"clients/python", "server", "training"}
    for name in installed:
        project = tomllib.loads((tmp_path / name / "pyproject.toml").read_text())
        packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
        named = [project["project"].get("readme"), *(f"{package}/__init__.py" for package in packages)]
        assert [file for file in named if file and not (tmp_path / name / file).is_file()] == []


def test_weights_are_built_in_only_where_they_are_asked_for(dockerfile: str) -> None:
    assert re.findall(r"^ARG BUILTIN=(.*)$", dockerfile, re.MULTILINE) == ['""']


def test_every_argument_of_a_build_is_explained(dockerfile: str) -> None:
    explained = (ROOT / "docs" / "deployment.md").read_text()
    names = re.findall(r"^ARG (\w+)=", dockerfile, re.MULTILINE)
    assert [name for name in names if f"--build-arg {name}=" not in explained] == []


def test_the_gateway_is_installed_without_an_engine(stages: dict[str, str]) -> None:
    assert "SLHF_EXTRA=gateway" in stages["installed_gateway"]
    assert "COPY --from=installed_gateway /opt/slhf /opt/slhf" in stages["gateway"]


@pytest.mark.parametrize("target", WITH_ENGINE)
def test_an_image_finds_the_weights_that_are_built_into_it(stages: dict[str, str], target: str) -> None:
    """Without any, the variable is empty, which is not set: a file's weights_dir counts then."""
    (folder,) = re.findall(r"^COPY --from=weights /weights (\S+)$", stages[target], re.MULTILINE)
    assert re.findall(r"SLHF_WEIGHTS_DIR=(\S+)", stages[target]) == [f"${{BUILTIN:+{folder}}}"]
    assert "ARG BUILTIN\n" in stages[target]
    assert not folder.startswith("/cache")  # a volume hides what an image has there


def test_the_context_holds_sources_and_no_secrets() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    admitted = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert [name for name in admitted if not list(ROOT.glob(name))] == []
    assert not any(fnmatch(".env", pattern) or fnmatch(".git/config", pattern) for pattern in admitted)


def test_the_image_leaves_out_what_is_never_there(dockerfile: str) -> None:
    lines = (ROOT / "deploy" / "overrides-image.txt").read_text().splitlines()
    names = [line for line in lines if not line.startswith("#")]
    assert names
    assert all(line.endswith(" ; sys_platform == 'never'") for line in names)
