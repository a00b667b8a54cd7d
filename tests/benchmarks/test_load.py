"""The load tool: what it sends, and how it tells answers from refusals and losses."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.load import Load, Sample, main, percentiles, run, weights
from slhf_server.models.fake import FakeEngine
from tests.conftest import Serve
from tests.server.models.upstream.faulty import Reply, breaks_off, error, pieces, reset, says, upstream

TEXTS = [("what is it", None), ("what was it", "a draft")]


def load(**given: Any) -> Load:
    return Load(**{"per_second": 400.0, "seconds": 0.1, "rounds": {0: 1.0, 2: 1.0}, "stream": 0.5, **given})


def samples(url: str, **given: Any) -> list[Sample]:
    return asyncio.run(run(url, load(**given), TEXTS))


def test_arrivals_are_those_of_the_seed_and_mix_rounds_and_streams() -> None:
    cases = list(load(per_second=1000.0, seconds=1.0).cases(TEXTS))
    assert cases == list(load(per_second=1000.0, seconds=1.0).cases(TEXTS))
    assert 850 < len(cases) < 1150  # Poisson with mean 1000: five standard deviations are 158
    assert {(case.rounds, case.stream, case.draft) for _, case in cases} == {
        (rounds, stream, draft) for rounds in (0, 2) for stream in (True, False) for _, draft in TEXTS
    }
    assert [due for due, _ in cases] == sorted(due for due, _ in cases)


def test_a_server_that_answers_loses_nothing_and_streams_tell_their_first_token(serve: Serve) -> None:
    engine = FakeEngine()
    found = samples(serve(engine))
    assert len(found) == len(list(load().cases(TEXTS)))
    assert {sample.end for sample in found} == {"answered"}
    streamed = [sample for sample in found if sample.first_token is not None]
    assert 0 < len(streamed) < len(found)
    assert all(0 < (sample.first_token or 0) <= sample.latency for sample in streamed)
    assert len(engine.follower.calls) == sum(sample.rounds for sample in found)


@pytest.mark.parametrize(
    ("reply", "end", "why"),
    [
        (error(400), "refused", "400"),
        (error(429), "refused", "429"),
        (error(503, Retry_After="0"), "lost", "503"),
        (error(503, Retry_After="1"), "refused", "503"),
        (error(500), "lost", "500"),
        (breaks_off(*pieces("half")), "lost", "RemoteProtocolError"),
        (reset(), "lost", "ReadError"),
    ],
)
def test_what_is_no_answer_is_refused_or_lost(reply: Reply, end: str, why: str) -> None:
    with upstream(reply) as server:
        found = samples(server.url.removesuffix("/v1"), per_second=50.0, stream=1.0)
    assert {(sample.end, sample.why) for sample in found} == {(end, why)}


def test_a_stream_without_its_end_is_lost() -> None:
    with upstream(says({"choices": []})) as server:
        found = samples(server.url.removesuffix("/v1"), per_second=50.0, stream=1.0)
    assert {(sample.end, sample.why) for sample in found} == {("lost", "Lost")}


def test_a_retry_turns_a_loss_into_an_answer() -> None:
    with upstream(reset(), says({"choices": []})) as server:
        found = samples(server.url.removesuffix("/v1"), per_second=50.0, stream=0.0, retries=1)
    assert {sample.end for sample in found} == {"answered"}


def test_the_command_prints_a_table_writes_figures_and_fails_when_answers_are_lost(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, drafts = tmp_path / "figures.json", tmp_path / "drafts.jsonl"
    drafts.write_text('{"prompt": "what is it", "draft": "a draft"}\n', encoding="utf-8")
    flags = [
        "--per-second",
        "200",
        "--seconds",
        "0.1",
        "--rounds",
        "0:1,1:3",
        "--drafts",
        str(drafts),
        "--json",
        str(out),
    ]
    assert main([serve(), *flags]) == 0
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert figures["sent"] == figures["answered"] == figures["rounds"]["all"]["answered"] > 0
    assert f"{figures['sent']} sent" in capsys.readouterr().out
    with upstream(error(500)) as server:
        assert main([server.url.removesuffix("/v1"), *flags]) == 1


def test_weights_and_percentiles() -> None:
    """Of 0..100 the inclusive percentiles are the numbers themselves."""
    assert weights("0:1,2:0.5") == {0: 1.0, 2: 0.5}
    assert weights("1") == {1: 1.0}
    assert percentiles([float(n) for n in range(101)]) == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}
    assert percentiles([]) == {}
    assert percentiles([2.0])["p99"] == 2.0
