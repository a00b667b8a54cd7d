"""The CPU image, built and started for real: scripts/deploy-checks --image -k image -s

Needs root, buildah, podman, crun and mmdebstrap. Images lie in slhf-image under the folder for temporary files; the
base and uv's downloads are used again. The figures are printed.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from slhf import Client
from slhf_server.builtin.catalogue import NAME, TRAINED
from slhf_server.builtin.weights import WEIGHTS
from tests.deploy import containers
from tests.deploy.containers import PYTHON_IMAGE, Containers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

TAG = "localhost/slhf-server:test-cpu"
WEIGHTS_TAG = "localhost/slhf-server:test-weights"
LARGEST = 2_500_000_000
"""Bytes, unpacked."""
START_S = 300
GRACE_S = 30
"""The server's own, for requests; then its engine ends, in up to 15 s."""


def figure(text: str) -> None:
    print(f"image: {text}")  # noqa: T201


@pytest.fixture(scope="module")
def podman() -> Containers:
    if not os.environ.get("BUILD_IMAGE"):
        pytest.skip("BUILD_IMAGE is not set: scripts/deploy-checks --image sets it")
    if reason := containers.obstacle():
        pytest.skip(reason)
    return Containers(Path(tempfile.gettempdir()) / "slhf-image")


@pytest.fixture(scope="module")
def base(podman: Containers, tmp_path_factory: pytest.TempPathFactory) -> None:
    if podman.say("image", "exists", PYTHON_IMAGE).returncode:
        containers.make_stand_in(podman, tmp_path_factory.mktemp("stand-in"))


@pytest.fixture(scope="module")
def build(podman: Containers, base: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """`build(tag, *options)`: from the Dockerfile, with this host's pip configuration."""
    context = tmp_path_factory.mktemp("context")
    containers.copy_context(context)
    pip = containers.pip_options(tmp_path_factory.mktemp("pip"))
    return lambda tag, *options: podman.build(context, tag, *options, *pip)


@pytest.fixture(scope="module")
def image(podman: Containers, build: Callable[..., None]) -> dict[str, Any]:
    """The built image, as podman describes it."""
    began = time.monotonic()
    build(TAG, "--target", "cpu")
    figure(f"built in {time.monotonic() - began:.0f} s")
    (described,) = json.loads(podman.say("image", "inspect", TAG).stdout)
    return dict(described)


@dataclass
class Running:
    """A server in a container that may write to /cache and /tmp alone and has no capability."""

    process: subprocess.Popen[bytes]
    name: str
    url: str
    log: Path


@pytest.fixture(scope="module")
def server(podman: Containers, image: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    name, log = f"slhf-image-{os.getpid()}", tmp_path_factory.mktemp("server") / "log"
    places = ["--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp"]
    rights = ["--cap-drop=ALL", "--security-opt=no-new-privileges", *containers.limits()]
    network = ["--network=host", f"--env=SLHF_PORT={port}", "--env=SLHF_HOST=127.0.0.1"]
    bundle = f"--env=SLHF_BUNDLE=builtin:{TRAINED}"
    command = podman.podman("run", "--rm", "--name", name, *places, *rights, *network, bundle, TAG)
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=podman.environ, stdout=out, stderr=subprocess.STDOUT)
    running = Running(process, name, f"http://127.0.0.1:{port}", log)
    try:
        began = time.monotonic()
        wait_until_ready(running)
        figure(f"ready {time.monotonic() - began:.0f} s after its start, with an empty /cache")
        yield running
    finally:
        if process.poll() is None:
            podman.say("rm", "--force", "--time", "0", name)
            process.wait(60)


def wait_until_ready(running: Running) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and running.process.poll() is None:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{running.url}/ready", timeout=5).status_code == 200:
                return
        time.sleep(0.5)
    raise AssertionError(f"not ready:\n{running.log.read_text()[-4000:]}")


def test_the_image_is_no_larger_than_promised(image: dict[str, Any]) -> None:
    figure(f"{image['Size'] / 1e9:.2f} GB unpacked")
    assert image["Size"] <= LARGEST


def test_the_stage_that_fetches_weights_holds_the_file_that_was_asked_for(
    podman: Containers, build: Callable[..., None]
) -> None:
    """Of the smallest model: the stage's command is the same for each."""
    build(WEIGHTS_TAG, "--target", "weights", "--build-arg", f"BUILTIN={NAME}")
    file = f"/weights/{WEIGHTS[NAME].file}"
    told = podman.say("run", "--rm", *containers.limits(), WEIGHTS_TAG, "sha256sum", file)
    assert told.stdout.split() == [WEIGHTS[NAME].sha256, file]


def test_no_weights_are_built_in_unless_they_are_asked_for(podman: Containers, server: Running) -> None:
    told = inside(podman, server, "sh", "-c", "ls /usr/share/slhf/weights; echo weights_dir is [$SLHF_WEIGHTS_DIR]")
    assert told.stdout.strip() == "weights_dir is []"


def test_the_image_runs_as_a_user_without_rights(image: dict[str, Any]) -> None:
    assert image["Config"]["User"] == "10001:0"


def inside(podman: Containers, server: Running, *command: str) -> subprocess.CompletedProcess[str]:
    return podman.say("exec", server.name, *command)


def test_the_server_has_no_rights(podman: Containers, server: Running) -> None:
    assert inside(podman, server, "sh", "-c", "echo $(id -u):$(id -g)").stdout.strip() == "10001:0"
    status = inside(podman, server, "cat", "/proc/1/status").stdout.split("\n")
    assert [line.split()[1] for line in status if line.startswith("CapEff")] == ["0" * 16]
    for place in ("/opt/slhf", "/run", "/var/tmp"):
        assert "Read-only file system" in inside(podman, server, "touch", f"{place}/written").stdout


def test_nothing_can_be_installed_or_compiled(podman: Containers, server: Running) -> None:
    tools = "for name in gcc cc c++ make pip pip3 uv; do command -v $name; done; true"
    assert inside(podman, server, "sh", "-c", tools).stdout == ""
    assert "No module named pip" in inside(podman, server, "/usr/local/bin/python3", "-m", "pip").stdout


def test_nothing_tells_where_its_packages_came_from(podman: Containers, server: Running) -> None:
    told = "cat /etc/pip.conf /etc/uv/uv.toml /run/secrets/* 2>/dev/null; env | grep -E '^(PIP|UV)_'; true"
    assert inside(podman, server, "sh", "-c", told).stdout.strip() == ""


def test_a_ready_server_passes_its_own_check(podman: Containers, server: Running) -> None:
    checked = podman.say("healthcheck", "run", server.name)
    assert checked.returncode == 0, checked.stdout


def test_the_built_in_bundle_whose_weights_every_image_has_refines(server: Running) -> None:
    with Client(server.url, timeout=300) as client:
        assert [model.id for model in client.models()] == [TRAINED]
        answer = client.refine("Why is the sky blue?", draft="Because it is.", rounds=1, max_tokens=32)
    assert answer.refinement.rounds_run == 1
    assert answer.output


def test_sigterm_ends_the_server_in_time(server: Running) -> None:
    """Last: the others need it running. Signals have no default action for a container's first process: 0, not 143."""
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)  # podman hands it on
    status = server.process.wait(GRACE_S + 15)
    figure(f"ended {time.monotonic() - began:.1f} s after SIGTERM, status {status}")
    assert status == 0, server.log.read_text()[-4000:]
