"""`slhf shadow` against a server, and its export as training reads it."""

import asyncio
import json
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner, Result

from slhf._commands import app
from slhf_server.verdicts.store import VerdictStore
from slhf_training.data import Pair
from slhf_training.data.load import DataSettings, load
from tests.conftest import Serve
from tests.server.conftest import eventually
from tests.server.verdicts.judged import judging_engine, shadowed
from tests.server.verdicts.records import record


def slhf(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def judged(url: str, count: int, **body: object) -> None:
    """Have so many further requests judged in the shadow."""

    def n() -> int:
        found: int = httpx2.get(f"{url}/v1/shadow/fake").json()["n"]
        return found

    before = n()
    for number in range(count):
        httpx2.post(f"{url}/v1/refine", json={"prompt": f"question {number}", **body}).raise_for_status()
    assert eventually(lambda: n() == before + count)


def test_what_was_better_in_service_is_what_training_learns_from(serve: Serve, tmp_path: Path) -> None:
    url = serve(judging_engine(), log_content=True, **shadowed(tmp_path))
    judged(url, 3)
    file = tmp_path / "pairs.jsonl"
    done = slhf("shadow", "export", "fake", "--output", file, "--base-url", url)
    assert (done.exit_code, done.stdout) == (0, f"{file}: 3 pairs\n")
    found = sorted(load(DataSettings(files=(file,))), key=lambda example: str(example.chat))
    assert [example.pair for example in found] == [
        Pair(f"better better draft of: question {number}", f"draft of: question {number}") for number in range(3)
    ]
    assert [example.chat for example in found] == [[{"role": "user", "content": f"question {n}"}] for n in range(3)]
    assert {example.source for example in found} == {"shadow"}
    assert len({example.id for example in found}) == 3


def test_an_export_goes_through_every_page(serve: Serve, tmp_path: Path) -> None:
    async def fill() -> None:
        store = VerdictStore(tmp_path / "verdicts.db")
        for number in range(105):
            await store.add(record(number))
        store.close()

    asyncio.run(fill())
    url = serve(judging_engine(), **shadowed(tmp_path))
    done = slhf("shadow", "export", "fake", "--base-url", url)
    assert len({json.loads(line)["id"] for line in done.stdout.splitlines()}) == 105
    assert done.stderr == "-: 105 pairs\n"


def test_an_export_without_texts_says_why(serve: Serve, tmp_path: Path) -> None:
    url = serve(judging_engine(), **shadowed(tmp_path))
    judged(url, 1)
    done = slhf("shadow", "export", "fake", "--base-url", url)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "0 pairs; 1 verdicts have none, because the server kept no texts" in done.stderr
    assert "log_content" in done.stderr


def test_a_report_says_how_it_stands_in_words(serve: Serve, tmp_path: Path) -> None:
    url = serve(judging_engine(), **shadowed(tmp_path, verdicts=12))
    judged(url, 12, draft="so")
    said = slhf("shadow", "report", "fake", "--base-url", url).stdout
    assert "share 1, judge house, ended by its verdicts" in said
    assert "refine: the refined texts win" in said
    assert "draft_words: below 50" in said
    whole = json.loads(slhf("shadow", "report", "fake", "--json", "--base-url", url).stdout)
    assert (whole["wins"], whole["decision"], whole["ended"]) == (12, "on", "verdicts")
    assert whole["interval"] == [pytest.approx((0.05 / 13) ** (1 / 12)), 1]


def test_an_unknown_model_is_one_line_and_status_1(serve: Serve) -> None:
    done = slhf("shadow", "report", "nobody", "--base-url", serve())
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("slhf: 404 model_not_found: ")
