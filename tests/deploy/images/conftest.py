"""The images, where scripts/deploy-checks --image asks for them: each built once in a session, and not again where its
label names this very commit and no file has been changed since.

Docker keeps the layers of `gpu` for `ray` and `training`, which begin with them; buildah, which must keep none here, is
given the image that it has made of `gpu`.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.images import containers
from tests.deploy.images.containers import PYTHON_IMAGE, Containers
from tests.deploy.images.running import figure
from tests.deploy.programs import ROOT, dockerfile_argument

VLLM_IMAGE = dockerfile_argument("VLLM_IMAGE")
ON_GPU = ("ray", "training")


@dataclass(frozen=True)
class Image:
    """What podman says of it."""

    tag: str
    described: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.described["Config"])

    @property
    def labels(self) -> dict[str, str]:
        prefix = "org.opencontainers.image."
        return {name.removeprefix(prefix): value for name, value in self.config["Labels"].items() if prefix in name}


@pytest.fixture(scope="session")
def podman() -> Containers:
    if not os.environ.get("BUILD_IMAGE"):
        pytest.skip("BUILD_IMAGE is not set: scripts/deploy-checks --image sets it")
    if reason := containers.obstacle():
        pytest.skip(reason)
    return Containers(Path(tempfile.gettempdir()) / "slhf-image")


@pytest.fixture(scope="session")
def base(podman: Containers, tmp_path_factory: pytest.TempPathFactory) -> None:
    if podman.say("image", "exists", PYTHON_IMAGE).returncode:
        containers.make_stand_in(podman, tmp_path_factory.mktemp("stand-in"))


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("context")
    containers.copy_context(folder)
    return folder


@pytest.fixture(scope="session")
def labels() -> list[str]:
    """Of this checkout, as arguments of a build."""
    done = subprocess.run([str(ROOT / "scripts" / "image-labels")], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.fixture(scope="session")
def build(
    podman: Containers, base: None, context: Path, labels: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Image]:
    """`build(target, *options)`: from the Dockerfile, with this host's pip configuration."""
    options = [*containers.pip_options(tmp_path_factory.mktemp("pip")), *labels]

    def build(target: str, *more: str) -> Image:
        tag = f"localhost/slhf-server:test-{target}"
        podman.build(context, tag, "--target", target, *options, *more)
        return described(podman, tag)

    return build


def described(podman: Containers, tag: str) -> Image:
    (told,) = json.loads(podman.say("image", "inspect", tag).stdout)
    return Image(tag, told)


def of_this_commit(podman: Containers, target: str, labels: list[str]) -> Image | None:
    tag = f"localhost/slhf-server:test-{target}"
    if podman.say("image", "exists", tag).returncode:
        return None
    image = described(podman, tag)
    revision = image.labels.get("revision", "")
    return image if f"REVISION={revision}" in labels and not revision.endswith("-dirty") else None


@pytest.fixture(scope="session")
def image(podman: Containers, build: Callable[..., Image], context: Path, labels: list[str]) -> Callable[[str], Image]:
    """`image(target)`: built if there is none."""
    built: dict[str, Image] = {}

    def image(target: str) -> Image:
        if found := built.get(target) or of_this_commit(podman, target, labels):
            return found
        options: list[str] = []
        if target == "gpu":
            containers.make_vllm_stand_in(podman, context.with_name("vllm"), image("cpu").tag, VLLM_IMAGE)
        if target in ON_GPU:
            file = context / f"Dockerfile.{target}"
            text = (context / "Dockerfile").read_text()
            file.write_text(text.replace(f"FROM gpu AS {target}", f"FROM {image('gpu').tag} AS {target}"))
            options = ["--file", str(file)]
        began = time.monotonic()
        built[target] = build(target, *options)
        size = built[target].described["Size"]
        figure(f"{target}: built in {time.monotonic() - began:.0f} s, {size / 1e6:.0f} MB unpacked")
        return built[target]

    return image
