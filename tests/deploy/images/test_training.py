"""The image `training`: a run on a read-only root, which SIGTERM ends and a second container goes on with."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from slhf_server.builtin.catalogue import NAME
from tests.deploy.images.conftest import Image
from tests.deploy.images.containers import Containers, limits
from tests.deploy.images.running import figure, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

PREFERENCE = """\
def fewer_words(chats, first, second):
    return [float(len(one.split()) < len(other.split())) for one, other in zip(first, second)]
"""


@pytest.fixture(scope="module")
def built(image: Callable[[str], Image]) -> Image:
    return image("training")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """What a user mounts at /runs: writable for group 0."""
    settings = {
        "model": f"builtin:{NAME}",
        "output_dir": "fit",
        "data": {"files": ["prompts.jsonl"]},
        "preference": {"kind": "callable", "function": "my_preferences:fewer_words"},
        "optimisation": {"steps": 500, "batch_size": 1, "learning_rate": 1.0e-4},
        "rollout": {"max_new_tokens": 4, "max_prompt_tokens": 64},
        "save_every": 1,
    }
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"Say {n}."}) + "\n" for n in range(8)))
    (tmp_path / "my_preferences.py").write_text(PREFERENCE)
    tmp_path.chmod(0o2775)
    return tmp_path


def test_its_labels_are_its_own_and_those_of_the_commit(built: Image, labels: list[str]) -> None:
    assert built.labels["title"] == "slhf-training"
    assert f"REVISION={built.labels['revision']}" in labels
    assert built.config["User"] == "10001:0"
    assert built.config["WorkingDir"] == "/runs"


def test_it_lists_what_it_is_made_of(podman: Containers, built: Image) -> None:
    file = "/usr/share/slhf/sbom.cdx.json"
    told = podman.say("run", "--rm", "--network=none", *limits(), "--entrypoint=cat", built.tag, file)
    assert {"slhf-training", "slhf-server", "torch"} <= {one["name"] for one in json.loads(told.stdout)["components"]}


def test_sigterm_ends_a_run_and_the_next_container_goes_on_with_it(
    podman: Containers, built: Image, mine: Path
) -> None:
    options = [f"--volume={mine}:/runs", "--env=PYTHONPATH=/runs"]
    with started(podman, built.tag, mine / "log", "fit", "fit.yaml", options=options) as running:
        running.wait_until(lambda: checkpoints(mine) != set(), "a checkpoint")
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        status = running.process.wait(120)
    figure(f"training: ended {time.monotonic() - began:.1f} s after SIGTERM, status {status}")
    assert status == 128 + signal.SIGTERM, running.said()
    before = max(checkpoints(mine))
    with started(podman, built.tag, mine / "log", "fit", "fit.yaml", "--resume", options=options) as running:
        running.wait_until(lambda: max(checkpoints(mine)) > before, "a later checkpoint")


def checkpoints(folder: Path) -> set[int]:
    """The steps of those that are complete."""
    return {int(file.parent.name.split("-")[1]) for file in folder.glob("fit/checkpoint-*/trainer_state.json")}
