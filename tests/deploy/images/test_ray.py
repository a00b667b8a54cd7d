"""The image `ray` as KubeRay runs it: `ray start` is its first process, to which our application is deployed."""

import json
import signal
import time
from collections.abc import Callable, Iterator

import httpx2
import pytest
import yaml

from slhf_server.builtin.catalogue import TRAINED
from tests.deploy.images.conftest import Image
from tests.deploy.images.containers import Containers
from tests.deploy.images.running import Running, figure, free_port, started
from tests.deploy.programs import DEPLOY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SMALL = {"bundle": f"builtin:{TRAINED}", "engine": {"max_model_len": 1024}}


def served(port: int) -> str:
    """deploy/ray/serve.yaml's first application, without a GPU, with the smallest model."""
    written = yaml.safe_load((DEPLOY / "ray" / "serve.yaml").read_text())
    written["http_options"] = {"host": "127.0.0.1", "port": port}
    (application, _) = written["applications"]
    application["args"] = {"settings": SMALL}
    application["deployments"][0]["ray_actor_options"] = {"num_cpus": 0, "num_gpus": 0}
    return yaml.safe_dump({**written, "applications": [application]})


@pytest.fixture(scope="module")
def built(image: Callable[[str], Image]) -> Image:
    return image("ray")


@pytest.fixture(scope="module")
def head(podman: Containers, built: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("ray")
    file = folder / "serve.yaml"
    port = free_port()
    file.write_text(served(port))
    variables = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": f"127.0.0.1:{port + 1}"}
    environment = [f"--env={name}={value}" for name, value in variables.items()]
    options = [f"--volume={file}:/serve.yaml:ro", "--shm-size=2g", *environment]
    command = ["ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port + 1}", "--num-cpus=2"]
    with started(podman, built.tag, folder / "log", *command, "--include-dashboard=false", options=options) as running:
        running.url = f"http://127.0.0.1:{port}"
        running.wait_until(lambda: "Ray runtime started" in running.said(), "Ray's node")
        deployed = running.inside("serve", "run", "--non-blocking", "/serve.yaml")
        assert deployed.returncode == 0, deployed.stdout
        figure(f"ray: ready {running.wait_until_answered('/small/ready'):.0f} s after its start")
        yield running


def test_its_labels_are_its_own_and_those_of_the_commit(built: Image, labels: list[str]) -> None:
    assert built.labels["title"] == "slhf-server (ray)"
    assert f"REVISION={built.labels['revision']}" in labels
    assert built.config["User"] == "10001:0"


def test_a_replica_refines_on_a_read_only_root(head: Running) -> None:
    body = {"prompt": "Why is the sky blue?", "draft": "Because it is.", "rounds": 1, "max_tokens": 16}
    answer = httpx2.post(f"{head.url}/small/v1/refine", json=body, timeout=300)
    assert answer.status_code == 200, answer.text
    assert answer.json()["refinement"]["rounds_run"] == 1


def test_it_lists_ray_among_what_it_is_made_of(head: Running) -> None:
    bill = json.loads(head.inside("cat", "/usr/share/slhf/sbom.cdx.json").stdout)
    assert {"ray", "slhf-server", "torch"} <= {one["name"] for one in bill["components"]}


def test_kuberay_finds_wget_for_its_probes(head: Running) -> None:
    assert head.inside("sh", "-c", "command -v wget").stdout.strip() == "/usr/bin/wget"


def test_sigterm_ends_the_node(head: Running) -> None:
    """The last: the others need it."""
    began = time.monotonic()
    head.process.send_signal(signal.SIGTERM)
    status = head.process.wait(120)
    figure(f"ray: ended {time.monotonic() - began:.1f} s after SIGTERM, status {status}")
    assert status == 1, head.said()  # Ray's own, after it has drained its node
    assert "finished draining" in head.said()
