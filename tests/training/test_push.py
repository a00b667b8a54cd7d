"""`slhf-train push`: a bundle goes to the hub and comes back from there as it was. The hub is a stand-in here."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from slhf import Bundle, RoleWeights, read_bundle, write_bundle
from tests.training.hub import TOKEN, Hub, hub

OPENING = """
import sys
from slhf_training.models.bundles import open_bundle
opened = open_bundle("bundle", sys.argv[1])
print(opened.manifest.name, opened.adapter("follower"))
"""
SECRET = ".cache/huggingface/token"


@pytest.fixture
def remote() -> Iterator[Hub]:
    with hub() as here:
        yield here


def bundle(directory: Path, **changes: object) -> Path:
    """With an adapter for both roles, and a hidden file."""
    for name, content in {
        "policy/adapter_config.json": "{}",
        "policy/adapter_model.safetensors": "weights",
        "config.json": "{}",
        SECRET: "hf_other",
    }.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)
    roles = {"leader": RoleWeights(adapter="policy"), "follower": RoleWeights(adapter="policy")}
    made = Bundle(name="mine", trained="stackelberg", training={"step": 40}, evaluation={"win_rate": 0.61}, **roles)
    write_bundle(directory, made.model_copy(update=changes))
    return directory


def run(remote: Hub | str, *command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A command with this hub and, unless `variables` say otherwise, a token that may write."""
    url = remote if isinstance(remote, str) else remote.url
    known = {"HF_ENDPOINT": url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    environment = os.environ | known | variables
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120, env=environment)


def push(remote: Hub | str, directory: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = ("-m", "slhf_training.cli", "push", str(directory), *arguments)
    return run(remote, *command, **{"HF_HOME": str(directory.parent / "home")} | variables)


def test_a_bundle_is_pushed_whole_in_one_commit_for_its_owner_alone(remote: Hub, tmp_path: Path) -> None:
    directory = bundle(tmp_path / "bundle")
    done = push(remote, directory, "me/follower")
    assert (done.returncode, done.stdout) == (0, "scripts/serve --bundle me/follower\n"), done.stderr
    assert remote.visibility == {"me/follower": "private"}
    assert remote.commits == [f"mine {read_bundle(directory).revision}"]
    here = {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    del here[SECRET]
    there = remote.files["me/follower"]
    assert {name: content for name, content in there.items() if name != "README.md"} == here


def test_the_server_opens_what_was_pushed(remote: Hub, tmp_path: Path) -> None:
    assert push(remote, bundle(tmp_path / "bundle"), "me/follower").returncode == 0
    opened = run(remote, "-c", OPENING, "me/follower", HF_HOME=str(tmp_path / "elsewhere"))
    name, adapter = opened.stdout.split()
    assert name == "mine"
    assert Path(adapter).is_relative_to(tmp_path / "elsewhere")
    assert (Path(adapter) / "adapter_model.safetensors").read_text() == "weights"


def test_the_card_is_made_of_the_manifest(remote: Hub, tmp_path: Path) -> None:
    directory = bundle(tmp_path / "bundle", base_model="owner/base")
    assert push(remote, directory, "me/follower").returncode == 0
    card = remote.files["me/follower"]["README.md"].decode()
    _, metadata, text = card.split("---\n", 2)
    assert yaml.safe_load(metadata)["base_model"] == "owner/base"
    assert "slhf" in yaml.safe_load(metadata)["tags"]
    for said in ("# mine", "slhf-server --bundle me/follower", "| steps | 40 |", '"win_rate": 0.61'):
        assert said in text
    assert not (directory / "README.md").exists()


def test_a_card_that_is_there_is_kept(remote: Hub, tmp_path: Path) -> None:
    directory = bundle(tmp_path / "bundle")
    (directory / "README.md").write_text("# Written by a person")
    assert push(remote, directory, "me/follower").returncode == 0
    assert remote.files["me/follower"]["README.md"] == b"# Written by a person"


def test_a_second_push_changes_no_visibility_and_sends_no_weights_again(remote: Hub, tmp_path: Path) -> None:
    directory = bundle(tmp_path / "bundle")
    assert push(remote, directory, "me/follower", "--public").returncode == 0
    write_bundle(directory, read_bundle(directory).model_copy(update={"name": "again"}))
    assert push(remote, directory, "me/follower").returncode == 0
    assert remote.visibility == {"me/follower": "public"}
    assert (len(remote.commits), remote.sent) == (2, 1)
    assert b'"again"' in remote.files["me/follower"]["slhf.json"]


def test_without_a_token_nothing_is_asked(remote: Hub, tmp_path: Path) -> None:
    done = push(remote, bundle(tmp_path / "bundle"), "me/follower", HF_TOKEN="")
    assert (done.returncode, remote.files) == (1, {})
    assert "no token of the hub: set HF_TOKEN" in done.stderr


def test_what_the_hub_refuses_is_said_without_the_token(remote: Hub, tmp_path: Path) -> None:
    done = push(remote, bundle(tmp_path / "bundle"), "me/follower", HF_TOKEN="hf_another")
    assert done.returncode == 1
    assert f"slhf-train: REPO: me/follower: the hub at {remote.url} did not take it: " in done.stderr
    assert "401" in done.stderr
    assert "hf_another" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_hub_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = push("http://127.0.0.1:9", bundle(tmp_path / "bundle"), "me/follower")
    assert done.returncode == 1
    assert "the hub at http://127.0.0.1:9 did not take it: " in done.stderr
    assert "Traceback" not in done.stderr
    offline = push("http://127.0.0.1:9", tmp_path / "bundle", "me/follower", HF_HUB_OFFLINE="1")
    assert offline.returncode == 1
    assert "offline" in offline.stderr
    assert "Traceback" not in offline.stderr


@pytest.mark.parametrize(
    ("base", "repo", "message"),
    [
        ("../base", "me/follower", "base_model: '../base' is on this machine alone"),
        ("/models/base", "me/follower", "base_model: '/models/base' is on this machine alone"),
        (".", "a/b/c", "REPO: Repo id must be"),
    ],
)
def test_what_others_could_not_load_is_refused_before_anything_is_asked(
    base: str, repo: str, message: str, remote: Hub, tmp_path: Path
) -> None:
    (tmp_path / "base").mkdir()
    done = push(remote, bundle(tmp_path / "bundle", base_model=base), repo)
    assert (done.returncode, remote.files) == (1, {})
    assert message in done.stderr


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no slhf.json is in it"), ("{", "slhf.json: file: Invalid JSON")]
)
def test_what_is_no_bundle_is_refused(content: str | None, message: str, remote: Hub, tmp_path: Path) -> None:
    directory = bundle(tmp_path / "bundle")
    if content is None:
        (directory / "slhf.json").unlink()
    else:
        (directory / "slhf.json").write_text(content)
    done = push(remote, directory, "me/follower")
    assert (done.returncode, remote.files) == (1, {})
    assert message in done.stderr
