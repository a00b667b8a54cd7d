import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response
from typer.testing import CliRunner, Result

from slhf import (
    RefinementCompleted,
    RefineRequest,
    RefineResponse,
    RoundCompleted,
    RoundJudged,
    Selection,
    Usage,
    __version__,
)
from slhf._commands import app, refine
from slhf._exchange import Options
from tests.clients.fakes import FakeServer, error, events, sse


def slhf(*arguments: object, **settings: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **settings)


def test_version_is_that_of_the_package() -> None:
    assert slhf("--version").stdout == f"slhf {__version__}\n"


def test_draft_and_rounds_are_printed_readably_where_there_is_no_terminal(url: str, tmp_path: Path) -> None:
    draft = tmp_path / "draft.txt"
    draft.write_text("so")
    result = slhf("refine", "why?", "--draft", draft, "--rounds", 2, "--base-url", url)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "== draft (client, duo)",
        "so",
        "",
        "== round 1 (follower, duo)",
        "better so",
        "",
        "== round 2 (follower, duo)",
        "better better so",
        "",
        "answer: round 2 (rounds_done; 2 of 2 rounds, 30 tokens, 0.0 s)",
    ]


def test_a_draft_may_come_from_standard_input_byte_for_byte(fake: FakeServer, url: str) -> None:
    assert slhf("refine", "why?", "--draft", "-", "--base-url", url, input="só\r\n\n".encode()).exit_code == 0
    assert fake.requests[0].draft == "só\r\n\n"


def test_the_address_and_key_are_read_from_the_environment(fake: FakeServer, url: str) -> None:
    assert slhf("refine", "why?", env={"SLHF_BASE_URL": url, "SLHF_API_KEY": "secret"}).exit_code == 0
    assert fake.keys == ["Bearer secret"]


def test_every_option_has_a_flag_but_those_that_shape_the_answer() -> None:
    flags = set(inspect.signature(refine).parameters)
    assert set(Options.__annotations__) - flags == {"return_rounds", "show_rounds"}


def test_every_option_reaches_the_server(fake: FakeServer, url: str) -> None:
    options = ["--model", "duo", "--rounds", 1, "--instruction", "be brief", "--temperature", 0.5, "--top-p", 0.9]
    options += ["--seed", 5, "--max-tokens", 7, "--max-total-tokens", 99, "--timeout-ms", 1000, "--on-error", "fail"]
    options += ["--select", "judge", "--stop-when", "no_gain", "--stop-when", "small_edit"]
    assert slhf("refine", "why?", *options, "--stop-when-unchanged", "--base-url", url).exit_code == 0
    assert fake.requests[0].model_dump(exclude_unset=True) == {
        "prompt": "why?",
        "model": "duo",
        "rounds": 1,
        "instruction": "be brief",
        "seed": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "max_total_tokens": 99,
        "timeout_ms": 1000,
        "on_error": "fail",
        "select": "judge",
        "stop_when": ["no_gain", "small_edit"],
        "stop_when_unchanged": True,
        "stream": False,
    }


def test_json_is_the_answer_of_the_server(url: str) -> None:
    answer = RefineResponse.model_validate_json(slhf("refine", "why?", "--json", "--base-url", url).stdout)
    assert answer.output == "better why?"


def test_a_stream_is_printed_as_it_comes(url: str) -> None:
    result = slhf("refine", "why?", "--stream", "--base-url", url)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "== draft (client, duo)",
        "why?",
        "",
        "== round 1 (follower, duo)",
        "betterwhy?",
        "",
        "answer: round 1 (rounds_done; 1 of 1 rounds, 15 tokens, 0.0 s)",
    ]


def test_a_stream_may_be_printed_as_json_lines(url: str) -> None:
    result = slhf("refine", "why?", "--stream", "--json", "--base-url", url)
    expected = [event.model_dump(mode="json") for event in events(RefineRequest(prompt="why?"))]
    assert [json.loads(line) for line in result.stdout.splitlines()] == expected


def test_what_a_judge_has_said_is_told_behind_its_round_and_at_the_end(fake: FakeServer, url: str) -> None:
    told = events(RefineRequest(prompt="why?", rounds=2))
    last = told[-1]
    assert isinstance(last, RefinementCompleted)
    last.refinement.selection = Selection(judge="house", round=1, p=[0.91, None], consistent=[True, None])
    last.refinement.returned_round = 1
    common = {"judge": "house", "usage": Usage(), "latency_ms": 1}
    judged = RoundJudged(round=1, against=0, p=0.91, consistent=True, **common)
    failed = RoundJudged(round=2, against=1, p=None, consistent=None, failed=True, **common)
    ends = [at for at, event in enumerate(told) if isinstance(event, RoundCompleted)]
    whole = [*told[: ends[1] + 1], judged, *told[ends[1] + 1 : ends[2] + 1], failed, *told[ends[2] + 1 :]]
    fake.verdict = lambda request: (
        Response(sse(whole), media_type="text/event-stream")
        if request.stream
        else Response(RefineResponse(**dict(last)).model_dump_json(), media_type="application/json")
    )
    streamed = slhf("refine", "why?", "--stream", "--base-url", url).stdout.splitlines()
    assert "judge house: better than the draft with p 0.91" in streamed
    assert "judge house: no verdict (it could not be asked)" in streamed
    plain = slhf("refine", "why?", "--base-url", url).stdout.splitlines()
    assert streamed[-1] == plain[-1]
    assert plain[-1].startswith("answer: round 1 (rounds_done; 2 of 2 rounds")
    assert plain[-1].endswith("; judge house: p 0.91, none)")


def test_models_are_listed(url: str) -> None:
    result = slhf("models", "--base-url", url)
    assert result.stdout.split() == "model base model context trained duo base/model - stackelberg".split()
    assert json.loads(slhf("models", "--json", "--base-url", url).stdout)["id"] == "duo"


def test_an_error_of_the_server_is_one_line(fake: FakeServer, url: str) -> None:
    fake.verdict = lambda request: error(404, "model_not_found", "no model\n'x'", {"X-Request-Id": "r1"})
    result = slhf("refine", "why?", "--base-url", url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "slhf: 404 model_not_found: no model 'x' (request r1)\n"


def test_an_address_that_is_none_is_one_line() -> None:
    result = slhf("models", "--base-url", "http://far:port")
    assert result.exit_code == 1
    assert result.stderr.startswith("slhf: base_url 'http://far:port': ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "give either a question or --input"),
        (["why?", "--input", "IN", "--output", "out"], "give either a question or --input"),
        (["--input", "IN"], "--input and --output go together"),
        (["why?", "--output", "out"], "--input and --output go together"),
        (["--input", "IN", "--output", "out", "--json"], "are for one question"),
        (["--input", "IN", "--output", "out", "--concurrency", "0"], "concurrency"),
        (["--input", "missing.jsonl", "--output", "out"], "missing.jsonl: No such file"),
        (["why?", "--temperature", "9"], "temperature: Input should be"),
        (["why?", "--on-error", "panic"], "on_error: Input should be"),
        (["why?", "--draft", "missing.txt"], "missing.txt: "),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(tmp_path: Path, arguments: list[str], problem: str) -> None:
    source = tmp_path / "in.jsonl"
    source.touch()
    result = slhf("refine", *[str(source) if word == "IN" else word for word in arguments], env={"COLUMNS": "300"})
    assert (result.exit_code, result.stdout) == (2, "")
    assert problem in " ".join(result.stderr.replace("│", " ").split())


@pytest.fixture
def batch(tmp_path: Path, url: str) -> list[object]:
    (tmp_path / "in.jsonl").write_text('{"prompt": "good"}\n{"id": "b", "prompt": "bad"}\n')
    return ["refine", "--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl", "--base-url", url]


def refuse(status: int) -> Any:
    def verdict(request: RefineRequest) -> Response | None:
        return error(status, message="too [bold] bad") if request.prompt == "bad" else None

    return verdict


def test_a_batch_prints_what_was_refused_and_ends_well(fake: FakeServer, batch: list[object], tmp_path: Path) -> None:
    fake.verdict = refuse(400)
    result = slhf(*batch)
    assert result.exit_code == 0
    assert result.stderr == "b: too [bold] bad\n"
    assert result.stdout.startswith(f"{tmp_path / 'out.jsonl'}: 1 refined, 1 refused, 0 failed, 0 were there; 5 tokens")


def test_a_batch_with_lines_worth_another_try_ends_with_1(fake: FakeServer, batch: list[object]) -> None:
    fake.verdict = refuse(504)
    result = slhf(*batch)
    assert result.exit_code == 1
    assert result.stderr == "b: too [bold] bad\nslhf: the same command tries the failed lines again\n"
    fake.verdict = lambda request: None
    assert "1 refined, 0 refused, 0 failed, 1 were there" in slhf(*batch).stdout


def test_the_options_of_a_batch_are_those_of_all_its_lines(
    fake: FakeServer, batch: list[object], tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text('{"instruction": "a", "output": "so", "refine": {"rounds": 1}}\n')
    assert slhf(*batch, "--prompt-key", "instruction", "--draft-key", "output", "--rounds", 3).exit_code == 0
    assert fake.requests == [RefineRequest(prompt="a", draft="so", rounds=3)]
    record = json.loads((tmp_path / "out.jsonl").read_text())
    assert (record["id"], record["instruction"], record["output"]) == (1, "a", "better better better so")


def unknown_model(request: RefineRequest) -> Response | None:
    return error(404, "model_not_found", "no such model") if request.model == "gpt-4" else None


def test_a_column_of_the_users_own_is_no_option(fake: FakeServer, batch: list[object], tmp_path: Path) -> None:
    fake.verdict = unknown_model
    (tmp_path / "in.jsonl").write_text('{"prompt": "a", "draft": "b", "model": "gpt-4", "temperature": "0.7"}\n')
    result = slhf(*batch, "--model", "duo")
    assert result.exit_code == 0
    assert fake.requests == [RefineRequest(prompt="a", draft="b", model="duo")]
    assert json.loads((tmp_path / "out.jsonl").read_text()).items() >= {"model": "gpt-4", "temperature": "0.7"}.items()


def test_a_model_that_is_not_served_is_tried_again_and_no_success(
    fake: FakeServer, batch: list[object], tmp_path: Path
) -> None:
    fake.verdict = unknown_model
    (tmp_path / "in.jsonl").write_text('{"prompt": "a", "refine": {"model": "gpt-4"}}\n')
    assert slhf(*batch).exit_code == 1
    assert slhf(*batch).exit_code == 1
    result = slhf(*batch, "--model", "duo")
    assert result.exit_code == 0
    assert "1 refined, 0 refused, 0 failed, 0 were there" in result.stdout


def test_a_batch_of_nothing_but_refusals_is_no_success_now_or_later(
    fake: FakeServer, batch: list[object], tmp_path: Path
) -> None:
    fake.verdict = lambda request: error(400)
    first, second = slhf(*batch), slhf(*batch)
    assert (first.exit_code, second.exit_code) == (1, 1)
    assert "0 refined, 2 refused" in first.stdout
    assert "2 were there (2 refused)" in second.stdout
    assert "every line was refused" in second.stderr
    assert len(fake.requests) == 2


def test_a_wrong_line_ends_a_batch_with_2_before_it_begins(
    fake: FakeServer, batch: list[object], tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\nnonsense\n')
    result = slhf(*batch)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"slhf: {tmp_path / 'in.jsonl'}:2: ")
    assert fake.requests == []


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_libraries_of_the_command_it_says_what_to_install(missing: str) -> None:
    hidden = f"import sys; sys.modules[{missing!r}] = None; from slhf.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, timeout=30)
    assert result.returncode == 1
    assert result.stderr == f"slhf: the command needs {missing}: pip install 'slhf[cli]'\n"
