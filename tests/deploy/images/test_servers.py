"""The server's images, built and started for real: scripts/deploy-checks --image -k images -s

Needs root, buildah, podman, crun and mmdebstrap. Images lie in slhf-image under the folder for temporary files; the
bases and uv's downloads are used again. The figures are printed. `gpu` runs on its base's stand-in, on the CPU.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from slhf import Bundle, Client, write_bundle
from slhf_server.builtin.catalogue import NAME, TRAINED
from slhf_server.builtin.weights import WEIGHTS
from slhf_server.engine.prompt import PromptEncoder
from tests.deploy.images.conftest import Image
from tests.deploy.images.containers import Containers, limits
from tests.deploy.images.running import Running, figure, started
from tests.server.engine.vllm_stub import VLLMStub, in_a_thread, writes
from tests.zoo import FAMILIES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

GRACE_S = 30
"""The server's own, for requests; then its engine ends, in up to 15 s."""
SMALL = {"cpu": 2_500_000_000, "gateway": 350_000_000}
"""Bytes, unpacked, at most. The gpu's are its base's."""


@dataclass
class Server:
    """`model` is what it serves."""

    target: str
    image: Image
    running: Running
    model: str


@contextmanager
def engine_server(podman: Containers, tag: str, folder: Path) -> Iterator[tuple[Running, str]]:
    bundle = f"--env=SLHF_BUNDLE=builtin:{TRAINED}"
    with started(podman, tag, folder / "log", options=[bundle, "--shm-size=1g"]) as running:
        yield running, TRAINED


@contextmanager
def gateway_server(podman: Containers, tag: str, folder: Path) -> Iterator[tuple[Running, str]]:
    """In front of a vLLM server's stand-in, with a tokenizer that is mounted."""
    tokenizer = folder / "tokenizer"
    FAMILIES["SmolLM"].tokenizer().save_pretrained(tokenizer)
    (tokenizer / "config.json").write_text("{}")
    write_bundle(tokenizer, Bundle(name="tiny", trained="stackelberg"))
    encoder = PromptEncoder.open_light(tokenizer)
    vllm = VLLMStub(encoder, writes(encoder, "It scatters", " light."))
    with in_a_thread(vllm):
        engines = {"gpu": {"base_url": vllm.url, "model": "base", "tokenizer": "/tokenizer"}}
        options = [f"--volume={tokenizer}:/tokenizer:ro", f"--env=SLHF_REMOTE_ENGINES={json.dumps(engines)}"]
        with started(podman, tag, folder / "log", options=options) as running:
            listening = running.wait_until_answered("/health")
            figure(f"gateway: listens {listening:.1f} s after `podman run`, {worked_s(running):.2f} s of it at work")
            yield running, "gpu"


def worked_s(running: Running) -> float:
    """Processor time of the container's first process, which a busy machine changes little."""
    ticks = running.inside("cat", "/proc/1/stat").stdout.rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


STARTS = {"cpu": engine_server, "gateway": gateway_server, "gpu": engine_server}


@pytest.fixture(scope="module", params=["gateway", "cpu", "gpu"])
def server(
    request: pytest.FixtureRequest,
    podman: Containers,
    image: Callable[[str], Image],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    target = str(request.param)
    built = image(target)
    with STARTS[target](podman, built.tag, tmp_path_factory.mktemp(target)) as (running, model):
        ready = running.wait_until_answered("/ready")
        figure(f"{target}: ready {ready:.1f} s after its start, with an empty /cache")
        yield Server(target, built, running, model)


def test_an_image_is_no_larger_than_promised(server: Server) -> None:
    assert server.image.described["Size"] <= SMALL.get(server.target, 1e12)


def test_labels_say_what_an_image_is_and_what_it_was_built_from(server: Server, labels: list[str]) -> None:
    told = dict(argument.lower().split("=", 1) for argument in labels if "=" in argument)
    shown = server.image.labels
    assert {name: shown[name].lower() for name in told} == told
    assert shown["title"] == f"slhf-server ({server.target})"
    assert shown["description"].startswith("Refinement server")
    assert shown["licenses"] == "Apache-2.0 AND BSD-3-Clause AND MIT"


def test_an_image_lists_what_it_is_made_of(server: Server) -> None:
    bill = json.loads(server.running.inside("cat", "/usr/share/slhf/sbom.cdx.json").stdout)
    assert bill["bomFormat"] == "CycloneDX"
    names = {one["name"] for one in bill["components"]}
    assert {"slhf", "slhf-server", "fastapi"} <= names
    assert not names & {"pip", "uv", "cyclonedx-bom"} or server.target == "gpu"  # its base has what it has
    assert ("torch" in names) == (server.target != "gateway")


def test_an_image_has_a_user_without_rights(server: Server) -> None:
    assert server.image.config["User"] == "10001:0"


def test_it_runs_as_any_user_of_group_0_without_rights(server: Server) -> None:
    inside = server.running.inside
    assert inside("sh", "-c", "echo $(id -u):$(id -g)").stdout.strip() == "12345:0"
    status = inside("cat", "/proc/1/status").stdout.split("\n")
    assert [line.split()[1] for line in status if line.startswith("CapEff")] == ["0" * 16]
    for place in ("/usr/local", "/usr/share/slhf", "/run", "/var/tmp"):
        assert "Read-only file system" in inside("touch", f"{place}/written").stdout
    assert inside("touch", "/cache/written", "/tmp/written").stdout == ""


def test_nothing_can_be_installed_or_compiled(server: Server) -> None:
    if server.target == "gpu":
        pytest.skip("vLLM's image has a compiler and installers, which its kernels need")
    tools = "for name in gcc cc c++ make pip pip3 uv; do command -v $name; done; true"
    assert server.running.inside("sh", "-c", tools).stdout == ""
    assert "No module named pip" in server.running.inside("/usr/local/bin/python3", "-m", "pip").stdout


def test_nothing_tells_where_its_packages_came_from(server: Server) -> None:
    told = "cat /etc/pip.conf /etc/uv/uv.toml /run/secrets/* 2>/dev/null; env | grep -E '^(PIP|UV)_'; true"
    assert server.running.inside("sh", "-c", told).stdout.strip() == ""


def test_no_weights_are_built_in_unless_they_are_asked_for(server: Server) -> None:
    look = "ls -A /usr/share/slhf/weights 2>/dev/null; echo weights_dir is [$SLHF_WEIGHTS_DIR]"
    assert server.running.inside("sh", "-c", look).stdout.strip() == "weights_dir is []"


def test_a_ready_server_passes_its_own_check(server: Server) -> None:
    checked = server.running.podman.say("healthcheck", "run", server.running.name)
    assert checked.returncode == 0, checked.stdout


def test_it_refines(server: Server) -> None:
    """With the bundle whose weights every image with an engine has."""
    with Client(server.running.url, timeout=300) as client:
        assert [model.id for model in client.models()] == [server.model]
        answer = client.refine("Why is the sky blue?", draft="Because it is.", rounds=1, max_tokens=32)
    assert answer.refinement.rounds_run == 1
    assert answer.output


def test_sigterm_ends_the_server_in_time(server: Server) -> None:
    """The last that needs it running. Signals have no default action for a container's first process: 0, not 143."""
    began = time.monotonic()
    server.running.process.send_signal(signal.SIGTERM)  # podman hands it on
    status = server.running.process.wait(GRACE_S + 15)
    figure(f"{server.target}: ended {time.monotonic() - began:.1f} s after SIGTERM, status {status}")
    assert status == 0, server.running.said()


def test_the_stage_that_fetches_weights_holds_the_file_that_was_asked_for(
    podman: Containers, build: Callable[..., Image]
) -> None:
    """Of the smallest model: the stage's command is the same for each."""
    built = build("weights", "--build-arg", f"BUILTIN={NAME}")
    file = f"/weights/{WEIGHTS[NAME].file}"
    told = podman.say("run", "--rm", "--network=none", *limits(), built.tag, "sha256sum", file)
    assert told.stdout.split() == [WEIGHTS[NAME].sha256, file]
