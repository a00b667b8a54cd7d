"""Inputs and outputs that are no plain files: read, streamed, or refused before anything is sent."""

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from slhf import InputError
from tests.clients.fakes import FakeServer
from tests.clients.test_batch import COMMAND, records, refine

LINES = '{"id": "a", "prompt": "x"}\n{"id": "b", "prompt": "y"}\n'
NO_PLAIN_FILE = "the output must be a plain file of its own, or - for standard output"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text(LINES)
    return path


def slhf(url: str, *arguments: object, script: str = "exec {}", **settings: Any) -> subprocess.CompletedProcess[str]:
    """The command in a shell, where pipes and redirections are made as people make them."""
    words = " ".join(f"'{word}'" for word in [*COMMAND, *arguments])
    environment = {**os.environ, "SLHF_BASE_URL": url}
    shell = ["bash", "-c", script.format(words)]
    return subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=60, **settings)


@pytest.mark.parametrize(
    ("input_", "script"),
    [
        ("-", "cat in.jsonl | {}"),
        ("-", "gzip -c in.jsonl | {}"),
        ("/dev/stdin", "{} < in.jsonl"),
        ("pipe", "mkfifo pipe; cat in.jsonl > pipe & {}"),
        ("/dev/fd/7", "{} 7< <(cat in.jsonl)"),
    ],
)
def test_a_pipe_is_as_good_as_a_file(url: str, source: Path, tmp_path: Path, input_: str, script: str) -> None:
    result = slhf(url, "--input", input_, "--output", "out.jsonl", script=script, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("out.jsonl: 2 refined, 0 refused, 0 failed")
    assert set(records(tmp_path / "out.jsonl")) == {"a", "b"}


@pytest.mark.parametrize(("output", "script"), [("-", "{}"), ("/dev/stdout", "{} > out; cat out")])
def test_standard_output_gets_the_records_and_standard_error_the_summary(
    url: str, source: Path, tmp_path: Path, output: str, script: str
) -> None:
    result = slhf(url, "--input", "in.jsonl", "--output", output, script=script, cwd=tmp_path)
    assert result.returncode == 0
    assert {json.loads(line)["id"] for line in result.stdout.splitlines()} == {"a", "b"}
    assert result.stderr.startswith(f"{output}: 2 refined, 0 refused")


def test_a_reader_that_has_seen_enough_ends_it_quietly(url: str, source: Path, tmp_path: Path) -> None:
    script = "{} | true; exit ${{PIPESTATUS[0]}}"
    result = slhf(url, "--input", "in.jsonl", "--output", "-", script=script, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "target", ["folder", "/dev/null", "/dev/full", "fifo", "in.jsonl", "link", "hard", "out.jsonl.gz"]
)
def test_an_output_that_is_no_plain_file_is_refused(
    fake: FakeServer, url: str, source: Path, tmp_path: Path, target: str
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "hard").hardlink_to(source)
    with pytest.raises(InputError, match=NO_PLAIN_FILE):
        refine(fake, source, tmp_path / target)
    assert fake.requests == []
    assert source.read_text() == LINES


def test_an_output_that_is_the_pipe_of_another_command_is_refused(url: str, source: Path, tmp_path: Path) -> None:
    result = slhf(url, "--input", "in.jsonl", "--output", "/dev/fd/7", script="{} 7> >(cat)", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert NO_PLAIN_FILE in result.stderr


def test_an_output_in_no_directory_is_refused(fake: FakeServer, source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no directory"):
        refine(fake, source, tmp_path / "nowhere" / "out.jsonl")
    assert fake.requests == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_an_output_that_cannot_be_written_is_refused(fake: FakeServer, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    target.touch(stat.S_IRUSR)
    with pytest.raises(InputError, match="it cannot be written"):
        refine(fake, source, target)


@pytest.mark.parametrize(
    ("input_", "problem"),
    [
        ("folder", "the input must be a file or a pipe"),
        ("/dev/null", "the input must be a file or a pipe"),
        ("/dev/zero", "the input must be a file or a pipe"),
        ("nowhere", "No such file"),
    ],
)
def test_an_input_that_is_neither_file_nor_pipe_is_refused(
    fake: FakeServer, tmp_path: Path, input_: str, problem: str
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=problem):
        refine(fake, tmp_path / input_, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_an_empty_pipe_is_no_success(url: str, tmp_path: Path) -> None:
    result = slhf(url, "--input", "-", "--output", "out.jsonl", script="true | {}", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "slhf: standard input: it holds no line\n"


def test_an_interrupted_wait_for_a_pipe_ends_at_once(url: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(
        [*COMMAND, "--input", "pipe", "--output", "out.jsonl"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        writer = (tmp_path / "pipe").open("w")  # opens when the command does
        process.send_signal(2)
        _, stderr = process.communicate(timeout=30)
        writer.close()
    assert process.returncode == 130
    assert stderr == "slhf: interrupted; the same command goes on where it stopped\n"


def test_a_name_that_is_not_utf8_is_a_name(url: str, source: Path, tmp_path: Path) -> None:
    source.rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl"))
    command: list[str | bytes] = [*COMMAND, "--input", b"caf\xe9.jsonl", "--output", b"caf\xe9.out", "--base-url", url]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("caf\\udce9.out: 2 refined")


def test_a_full_disk_is_said_and_loses_nothing_that_was_written(url: str, source: Path, tmp_path: Path) -> None:
    """A limit on a file's size stands for the disk: both cut a write short, and then fail it."""
    source.write_text("".join(f'{{"id": {number}, "prompt": "x"}}\n' for number in range(40)))
    limit = "ulimit -f 4; exec {}"
    result = slhf(url, "--input", "in.jsonl", "--output", "out.jsonl", script=limit, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("slhf: [Errno 27] File too large: ")
    whole = [line for line in (tmp_path / "out.jsonl").read_text().splitlines(keepends=True) if line.endswith("\n")]
    kept = [json.loads(line) for line in whole]
    assert 0 < len(kept) < 40
    again = slhf(url, "--input", "in.jsonl", "--output", "out.jsonl", cwd=tmp_path)
    assert again.returncode == 0
    assert f"{40 - len(kept)} refined, 0 refused, 0 failed, {len(kept)} were there" in again.stdout
    assert len(records(tmp_path / "out.jsonl")) == 40


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("{} > /dev/full", "[Errno 28] No space left on device"),
        ("{} >&-", "-: there is no standard output"),
        ("{} --input - <&-", "there is no standard input"),
    ],
)
def test_a_standard_stream_that_is_none_is_one_line(
    url: str, source: Path, tmp_path: Path, script: str, problem: str
) -> None:
    result = slhf(url, "--input", "in.jsonl", "--output", "-", script=script, cwd=tmp_path)
    assert result.returncode in (1, 2)
    assert (result.stdout, result.stderr) == ("", f"slhf: {problem}\n")


@pytest.mark.parametrize("changed", ['{{"id": "d", "prompt": "{0}"}}\n', "", "{{}}\n", "nonsense\n"])
def test_an_input_that_changes_while_it_is_read_is_no_success(
    fake: FakeServer, source: Path, tmp_path: Path, changed: str
) -> None:
    """The lines are longer than what is read at once, so that not all of them are in memory."""
    lines = [f'{{"id": "{name}", "prompt": "{name * 20_000}"}}\n' for name in "abc"]
    source.write_text("".join(lines))

    def report(record: object, summary: object) -> None:
        source.write_text(lines[0] + changed.format("x" * 20_000) * 2)

    with pytest.raises(InputError, match="it has changed while it was read|in.jsonl:[23]: "):
        refine(fake, source, tmp_path / "out.jsonl", report=report, concurrency=1)
    assert "a" in records(tmp_path / "out.jsonl")
    assert "c" not in records(tmp_path / "out.jsonl")


def test_lines_that_are_appended_later_are_not_read(fake: FakeServer, source: Path, tmp_path: Path) -> None:
    def report(record: object, summary: object) -> None:
        with source.open("a") as more:
            more.write("nonsense\n")

    assert refine(fake, source, tmp_path / "out.jsonl", report=report, concurrency=1).done == 2
