"""The benchmark of hostile requests: what it reads, what it counts as lost, and its list."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.hostile import main, read_drafts
from benchmarks.hostile_inputs import BODY_BYTES, INPUTS
from slhf_server.errors import EngineFailed
from slhf_server.models.base import Turn
from slhf_server.models.fake import FakeEngine, Said, improve
from tests.conftest import Serve

RECORDS = [{"instruction": f"Do {i}.", "output": f"done {i}", "split": "train" if i % 3 else "test"} for i in range(30)]


@pytest.fixture
def drafts(tmp_path: Path) -> Path:
    file = tmp_path / "drafts.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, RECORDS)).encode()))
    return file


def test_the_drafts_are_those_of_the_split_test(drafts: Path) -> None:
    assert read_drafts(drafts, 2) == [("Do 0.", "done 0"), ("Do 3.", "done 3")]


def test_each_input_has_a_name_of_its_own_and_fits_into_a_body() -> None:
    assert len({hostile.name for hostile in INPUTS}) == len(INPUTS)
    assert all(len(hostile.body or b"") <= BODY_BYTES for hostile in INPUTS)


def beside(url: str, drafts: Path) -> int:
    return main(["--base-url", url, "--api-keys", "ka,kb", "--drafts", str(drafts), "--only", "look-ahead"])


def test_a_run_beside_hostile_requests_loses_nothing(
    serve: Serve, drafts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = FakeEngine(token_seconds=0.1)  # long enough for hostile requests to be answered on a busy machine
    beside(serve(engine, api_keys="a=ka,b=kb"), drafts)
    told = capsys.readouterr().out
    assert "| calm | 10 | 0 |" in told
    assert "| hostile | 10 | 0 |" in told
    assert "x 400" in told
    assert {turns[0].text for turns, _ in engine.follower.calls} == {"Run warm-up.", "Run one.", "Run two."}


def test_an_answer_that_is_none_is_lost(serve: Serve, drafts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def reply(turns: Sequence[Turn]) -> Said:
        return EngineFailed("no") if turns[1].text == "Do 3." else improve(turns)

    assert beside(serve(FakeEngine(reply), api_keys="a=ka,b=kb"), drafts) == 1
    assert "| calm | 9 | 1 x 500 |" in capsys.readouterr().out
