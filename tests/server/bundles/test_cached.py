"""What is made in the cache can be read by whoever may read the cache, whoever made it."""

import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from slhf_server.bundles.cached import build_once
from tests.server.conftest import Run

MAKE = """
import os, sys
from pathlib import Path
from slhf_server.bundles.cached import build_once
os.setegid(0); os.seteuid(int(sys.argv[2])); os.umask(0o022)
found = build_once(Path(sys.argv[1]), lambda target: (target / "weights").write_text("made by " + sys.argv[2]))
print((found / "weights").read_text())
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def cache() -> Iterator[Path]:
    """As in the image: its group may write. Not in pytest's directory, which others may not enter."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o2775)
        yield Path(directory)


def fill(target: Path) -> None:
    (target / "leader").mkdir()
    save_file({"a": torch.zeros(2)}, target / "leader" / "model.safetensors")  # 0600, whatever the umask is
    (target / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("mask", "directories", "files"), [(0o022, 0o755, 0o644), (0o002, 0o775, 0o664), (0o077, 0o700, 0o600)]
)
def test_directories_and_files_have_the_modes_that_the_umask_leaves(
    tmp_path: Path, mask: int, directories: int, files: int
) -> None:
    before = os.umask(mask)
    try:
        made = build_once(tmp_path / "cache" / "merged", fill)
    finally:
        os.umask(before)
    assert {mode(path) for path in (made, made / "leader")} == {directories}
    assert {mode(path) for path in (made / "config.json", made / "leader" / "model.safetensors")} == {files}


def test_the_group_of_a_shared_cache_is_handed_on_and_its_members_may_lock(tmp_path: Path, cache: Path) -> None:
    made = build_once(cache / "merged", fill)
    assert made.stat().st_mode & stat.S_ISGID
    assert mode(cache / "merged.lock") == 0o664
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    build_once(private / "merged", fill)
    assert mode(private / "merged.lock") == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")
def test_users_of_one_group_share_a_cache_as_in_the_image(python: Run, cache: Path) -> None:
    """OpenShift runs each pod as a user of its own, in group 0. One was killed while it made something."""
    left = cache / "merged.0.partial"
    left.mkdir(mode=0o755)
    (left / "weights").write_text("half")
    os.chown(left, 100_001, 0)
    for user in ("100002", "100003"):
        ended = python(MAKE, str(cache / "merged"), user)
        assert (ended.returncode, ended.stdout) == (0, "made by 100002\n"), ended.stderr
    ended = python(MAKE, str(cache / "other"), "100003")
    assert ended.returncode == 0, ended.stderr


def test_what_fails_leaves_nothing_but_the_lock(tmp_path: Path) -> None:
    def fails(target: Path) -> None:
        fill(target)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        build_once(tmp_path / "merged", fails)
    assert [path.name for path in tmp_path.iterdir()] == ["merged.lock"]


def test_it_is_made_once_for_all_who_ask_at_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(target: Path) -> None:
        fill(target)
        made.append(target)

    asking = [threading.Thread(target=build_once, args=(tmp_path / "merged", make)) for _ in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(20)
    assert len(made) == 1


MAKE_AND_WEIGH = """
import sys
from pathlib import Path
from slhf_server.bundles.cached import build_once

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

last = []

def make(target):
    pieces = [bytearray(b"x" * 100_000) for _ in range(3000)]
    last.append(pieces[-1])  # stays on top of the heap, which can then not shrink

before = resident()
build_once(Path(sys.argv[1]), make)
print(resident() - before)
"""


def test_memory_that_making_took_goes_back_to_the_system(python: Run, tmp_path: Path) -> None:
    """300 MB, freed below a piece that is not: what a conversion leaves behind in a server that runs for weeks."""
    ended = python(MAKE_AND_WEIGH, str(tmp_path / "made"))
    assert int(ended.stdout) < 50_000, ended.stderr  # kB
