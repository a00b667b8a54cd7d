"""A file of drafts, refined over the in-process fake."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.responses import Response

from slhf import AsyncClient, InputError, RefineRequest, TransportError
from slhf._journal import Record
from slhf.batch import Summary, refine_file
from tests.clients.fakes import FakeServer, error, live

COMMAND = [sys.executable, "-c", "from slhf.cli import main; main()", "refine"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "in.jsonl"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def write(source: Path, *lines: dict[str, Any]) -> None:
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))


def records(target: Path) -> dict[str | int, Record]:
    found = [json.loads(line) for line in target.read_text().splitlines()]
    assert len({record["id"] for record in found}) == len(found)
    return {record["id"]: record for record in found}


def refine(fake: FakeServer, source: Path, target: Path, **settings: Any) -> Summary:
    async def no_sleep(seconds: float) -> None:
        """Not in a test."""

    async def run() -> Summary:
        transport = httpx2.ASGITransport(fake.app)
        async with AsyncClient(transport=transport, max_retries=1, _sleep=no_sleep) as client:
            return await refine_file(client, source, target, **settings)

    return asyncio.run(run())


def failing(**statuses: int) -> FakeServer:
    """Answers the prompts named with an error of that status."""

    def verdict(request: RefineRequest) -> Response | None:
        status = statuses.get(request.prompt or "")
        return None if status is None else error(status, message=f"no {request.prompt}")

    return FakeServer(verdict)


def test_each_line_gets_a_record_with_its_own_fields(fake: FakeServer, source: Path, target: Path) -> None:
    write(
        source,
        {"id": "a", "prompt": "why?", "draft": "so", "refine": {"rounds": 2}, "topic": "sky"},
        {"prompt": "how?"},
    )
    summary = refine(fake, source, target)
    found = records(target)
    assert set(found) == {"a", 2}
    assert found["a"]["output"] == "better better so"
    assert (found["a"]["topic"], found["a"]["prompt"]) == ("sky", "why?")
    assert found["a"]["usage"]["total_tokens"] == 30
    assert found["a"]["refinement"]["stop_reason"] == "rounds_done"
    assert "error" not in found["a"]
    assert (summary.total, summary.done, summary.refused, summary.failed, summary.skipped) == (2, 2, 0, 0, 0)
    assert summary.tokens == 15


def test_what_an_earlier_run_said_of_a_line_does_not_leak_into_its_record(source: Path, target: Path) -> None:
    earlier = {"output": "old", "refinement": {"old": 1}, "error": {"old": 1}, "usage": {}, "finish_reason": "old"}
    write(source, {"id": 1, "prompt": "good", **earlier}, {"id": 2, "prompt": "bad", **earlier})
    refine(failing(bad=400), source, target)
    assert "error" not in records(target)[1]
    assert set(records(target)[2]) == {"id", "prompt", "error"}


def test_no_more_lines_are_under_way_than_asked_for(fake: FakeServer, source: Path, target: Path) -> None:
    write(source, *({"prompt": str(number)} for number in range(40)))
    refine(fake, source, target, concurrency=3)
    assert fake.most_running == 3
    assert len(records(target)) == 40


def test_each_record_is_reported_once_it_is_on_disk(fake: FakeServer, source: Path, target: Path) -> None:
    write(source, *({"prompt": str(number)} for number in range(10)))
    reported: list[int] = []

    def report(record: Record, summary: Summary) -> None:
        assert record["id"] in records(target)
        reported.append(summary.done)

    refine(fake, source, target, report=report)
    assert reported == list(range(1, 11))


def test_an_error_is_the_record_of_its_line_and_stops_no_other(source: Path, target: Path) -> None:
    write(source, {"prompt": "good"}, {"prompt": "bad"}, {"prompt": "busy"})
    summary = refine(failing(bad=400, busy=503), source, target)
    assert (summary.done, summary.refused, summary.failed) == (1, 1, 1)
    assert records(target)[2]["error"] == {"status": 400, "code": None, "message": "no bad"}
    assert records(target)[3]["error"] == {"status": 503, "code": None, "message": "no busy"}


def test_running_again_sends_only_what_may_succeed_now(source: Path, target: Path) -> None:
    write(source, {"prompt": "good"}, {"prompt": "bad"}, {"prompt": "busy"})
    refine(failing(bad=400, busy=503), source, target)
    better = FakeServer()
    summary = refine(better, source, target)
    assert [request.prompt for request in better.requests] == ["busy"]
    assert (summary.skipped, summary.done) == (2, 1)
    assert {key: "error" in record for key, record in records(target).items()} == {1: False, 2: True, 3: False}


def test_a_finished_file_needs_no_server(fake: FakeServer, source: Path, target: Path) -> None:
    write(source, {"prompt": "a"})
    refine(fake, source, target)
    before = target.read_bytes()
    down = FakeServer()
    down.app.router.routes.clear()
    assert refine(down, source, target).skipped == 1
    assert target.read_bytes() == before


def test_a_last_line_torn_by_a_kill_is_done_again(fake: FakeServer, source: Path, target: Path) -> None:
    write(source, *({"id": f"l{number}", "prompt": "x"} for number in range(5)))
    refine(fake, source, target)
    whole = target.read_bytes()
    target.write_bytes(whole[:-20])
    torn = json.loads(whole.splitlines()[-1])["id"]
    again = FakeServer()
    assert refine(again, source, target).skipped == 4
    assert len(again.requests) == 1
    assert sorted(map(str, records(target))) == [f"l{number}" for number in range(5)]
    assert torn in records(target)


def test_nothing_is_sent_or_written_when_a_line_is_wrong(fake: FakeServer, source: Path, target: Path) -> None:
    write(source, {"prompt": "good"}, {"prompt": "good", "refine": {"rounds": "two"}})
    with pytest.raises(InputError, match=":2: rounds"):
        refine(fake, source, target)
    assert fake.requests == []
    assert not target.exists()


@pytest.mark.parametrize("name", ["in.jsonl", "out.jsonl.gz"])
def test_an_output_that_cannot_be_appended_to_is_refused(fake: FakeServer, source: Path, name: str) -> None:
    write(source, {"prompt": "good"})
    with pytest.raises(InputError, match="plain file of its own"):
        refine(fake, source, source.with_name(name))


def test_a_wrong_address_is_one_error_and_no_record_for_each_line(source: Path, target: Path) -> None:
    async def run() -> None:
        transport = httpx2.MockTransport(lambda request: httpx2.Response(200, text="another server"))
        async with AsyncClient(transport=transport) as client:
            await refine_file(client, source, target)

    write(source, {"prompt": "a"}, {"prompt": "b"})
    with pytest.raises(TransportError, match="not a ModelList"):
        asyncio.run(run())
    assert not target.exists()


def test_an_error_while_reporting_ends_the_batch_and_keeps_what_is_finished(
    fake: FakeServer, source: Path, target: Path
) -> None:
    def report(record: Record, summary: Summary) -> None:
        if summary.done == 3:
            raise OSError("the terminal is gone")

    write(source, *({"prompt": str(number)} for number in range(40)))
    with pytest.raises(OSError, match="the terminal is gone"):
        refine(fake, source, target, report=report, concurrency=4)
    assert len(records(target)) == 3


def stopped_midway(source: Path, target: Path, how: signal.Signals) -> tuple[FakeServer, int, str]:
    """Run the command over 60 lines, and send it a signal while the server holds back the answers after the 20th."""
    write(source, *({"id": f"l{number}", "prompt": f"l{number}"} for number in range(60)))
    fake = FakeServer(hold_after=20)
    with live(fake.app) as url:
        command = [*COMMAND, "--input", str(source), "--output", str(target), "--concurrency", "4"]
        environment = {**os.environ, "SLHF_BASE_URL": url}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert fake.holding.wait(timeout=30)
        process.send_signal(how)
        _, stderr = process.communicate(timeout=30)
    return fake, process.returncode, stderr


def resumed(source: Path, target: Path) -> FakeServer:
    fake = FakeServer()
    with live(fake.app) as url:
        command = [*COMMAND, "--input", str(source), "--output", str(target), "--base-url", url]
        subprocess.run(command, check=True, timeout=30)
    return fake


def test_a_killed_batch_is_resumed_without_losing_or_repeating_a_line(source: Path, target: Path) -> None:
    first, code, _ = stopped_midway(source, target, signal.SIGKILL)
    assert code == -signal.SIGKILL
    kept = {json.loads(line)["id"] for line in target.read_text().splitlines(keepends=True) if line.endswith("\n")}
    assert 0 < len(kept) < 60
    second = resumed(source, target)
    assert set(records(target)) == {f"l{number}" for number in range(60)}
    sent = Counter(request.prompt for request in [*first.requests, *second.requests])
    assert all(sent[key] == 1 for key in kept)


def test_an_interrupted_batch_ends_cleanly_with_what_is_finished(source: Path, target: Path) -> None:
    _, code, stderr = stopped_midway(source, target, signal.SIGINT)
    assert code == 130
    assert stderr == "slhf: interrupted; the same command goes on where it stopped\n"
    assert 0 < len(records(target)) < 60
    resumed(source, target)
    assert len(records(target)) == 60
