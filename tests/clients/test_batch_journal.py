import json
from pathlib import Path
from typing import Any

import pytest

from slhf import InputError
from slhf._journal import Journal

DONE = {"id": "done", "output": "x", "finish_reason": "stop", "refinement": {}, "usage": {}}
REFUSED = {"id": "refused", "error": {"status": 400, "code": None, "message": "no"}}


def failed(status: int | None, code: str | None = None) -> dict[str, Any]:
    return {"id": "failed", "error": {"status": status, "code": code, "message": "no"}}


def text(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def test_results_and_refusals_are_finished(path: Path) -> None:
    path.write_text(text(DONE, REFUSED))
    before = path.stat()
    assert Journal(path).finished == {"done", "refused"}
    assert Journal(path).refused == {"refused"}
    assert path.stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    "record",
    [*map(failed, (None, 401, 404, 408, 429, 500, 503, 504)), failed(404, "model_not_found")],
)
def test_what_failed_for_want_of_a_server_is_dropped_to_be_done_again(path: Path, record: dict[str, Any]) -> None:
    path.write_text(text(record, DONE))
    assert Journal(path).finished == {"done"}
    assert path.read_text() == text(DONE)


@pytest.mark.parametrize("torn", ['{"id": "b', text({**DONE, "id": "b"})[:-1], "\0\0\0", '{"id": "\u00e9'])
def test_a_last_line_torn_by_a_kill_is_dropped(path: Path, torn: str) -> None:
    path.write_bytes((text(DONE) + torn).encode()[: None if torn.isascii() else -1])
    assert Journal(path).finished == {"done"}
    assert path.read_text() == text(DONE)


@pytest.mark.parametrize(
    "content", ["notes", '[{"id": "a"}]', '{"prompt": "x"}', "\0\0x", '{"output": "o", "refinement": {}, "id": 1}']
)
def test_a_file_of_others_is_not_taken_for_a_torn_line(path: Path, content: str) -> None:
    """Many programs end a file without a line break: it would be emptied."""
    path.write_text(content)
    with pytest.raises(InputError, match=r"out\.jsonl:1: .*another program"):
        Journal(path)
    assert path.read_text() == content


def test_blank_lines_are_read_over(path: Path) -> None:
    path.write_text(f"\n{text(DONE)}\r\n\n{text(REFUSED)} \n ")
    assert Journal(path).finished == {"done", "refused"}
    assert path.read_text() == text(DONE, REFUSED)


def test_a_record_that_is_there_twice_stays_once(path: Path) -> None:
    path.write_text(text(DONE, REFUSED, DONE))
    assert Journal(path).finished == {"done", "refused"}
    assert path.read_text() == text(DONE, REFUSED)


@pytest.mark.parametrize(
    "foreign",
    ["hello\n", "{}\n", "[" * 9999 + "]" * 9999 + "\n", '{"id": "a", "prompt": "x"}\n', '{"id": "a", "output": "x"}\n'],
)
def test_the_output_of_another_program_is_not_touched(path: Path, foreign: str) -> None:
    path.write_text(text(DONE) + foreign + '{"torn')
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"out\.jsonl:2: .*another program"):
        Journal(path)
    assert path.read_bytes() == before


def test_records_are_on_disk_as_soon_as_they_are_appended(path: Path) -> None:
    with Journal(path) as journal:
        journal.append(DONE)
        assert path.read_text() == text(DONE)
        journal.append({**DONE, "output": "zwölf"})
    assert path.read_text(encoding="utf-8").endswith(
        '"zwölf", "finish_reason": "stop", "refinement": {}, "usage": {}}\n'
    )


def test_a_link_is_written_through(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    path.write_text(text(failed(None)))
    with Journal(link) as journal:
        journal.append(DONE)
    assert link.is_symlink()
    assert path.read_text() == text(DONE)


def test_a_journal_that_is_rewritten_keeps_its_permissions(path: Path) -> None:
    path.write_text(text(failed(None), DONE))
    path.chmod(0o640)
    Journal(path)
    assert path.stat().st_mode & 0o777 == 0o640
    assert [found.name for found in path.parent.iterdir()] == ["out.jsonl"]
