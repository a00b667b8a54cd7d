"""The log: one JSON object a line, one line for each request, nothing of what was said, no secret."""

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from slhf_server.api.middleware import Envelope
from slhf_server.loading import start as loading
from slhf_server.models.fake import FakeEngine
from slhf_server.observability.logs import JSONFormatter
from tests.conftest import Serve
from tests.server.conftest import Play, Run, eventually

TRACE = "0af7651916cd43dd8448eb211c80319c"


def formatted(record: logging.LogRecord) -> dict[str, Any]:
    line = JSONFormatter().format(record)
    assert "\n" not in line
    fields: dict[str, Any] = json.loads(line)
    return fields


def access(caplog: pytest.LogCaptureFixture, count: int = 1) -> list[dict[str, Any]]:
    """The requests' lines; the last one is written after its client has read the answer."""

    def records() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.name == "slhf_server.access"]

    assert eventually(lambda: len(records()) >= count)
    assert len(records()) == count
    return [formatted(record) for record in records()]


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_a_line_has_time_level_logger_message_and_the_extra_fields() -> None:
    record = logging.makeLogRecord(
        {"name": "a.b", "levelname": "WARNING", "msg": "%d\n%s", "args": (1, "two"), "created": 0.25, "round": 3}
    )
    assert formatted(record) == {
        "timestamp": "1970-01-01T00:00:00.250+00:00",
        "level": "warning",
        "logger": "a.b",
        "message": "1\ntwo",
        "round": 3,
    }


def test_an_exception_is_one_field_and_odd_values_are_text() -> None:
    try:
        raise ZeroDivisionError("boom")
    except ZeroDivisionError:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": sys.exc_info(), "path": Path("a")})
    line = formatted(record)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ZeroDivisionError: boom")
    assert line["path"] == "a"


def test_a_request_is_one_line(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    url = serve(api_keys="me=right")
    headers = {
        "Authorization": "Bearer right",
        "X-Request-Id": "mine",
        "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
    }
    answer = httpx2.post(f"{url}/v1/refine?secret=1", json={"prompt": "hush"}, headers=headers)
    (line,) = access(caplog)
    assert datetime.fromisoformat(line.pop("timestamp")).tzinfo == UTC
    assert line.pop("duration_ms") > 0
    expected = {
        "level": "info",
        "logger": "slhf_server.access",
        "message": "POST /v1/refine 200",
        "request_id": "mine",
        "method": "POST",
        "path": "/v1/refine",
        "status": 200,
        "bytes": len(answer.content),
        "stream": False,
        "model": "fake",
        "key": "me",
        "trace_id": TRACE,
    }
    assert {name: line[name] for name in expected} == expected


def test_no_line_holds_a_secret_or_a_text(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="slhf_server")
    url = serve(api_keys="me=right-key")
    for key in ("right-key", "wrong-key"):
        headers = {"Authorization": f"Bearer {key}"}
        httpx2.post(f"{url}/v1/refine", json={"prompt": "hush", "stream": True}, headers=headers)
        httpx2.post(f"{url}/v1/refine", json={"prompt": "hush", "hush": 1}, headers=headers)
    access(caplog, 4)
    for record in caplog.records:
        if record.name.startswith(("slhf", "uvicorn")):
            assert not any(word in JSONFormatter().format(record) for word in ("hush", "-key"))


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        TRACE,
        f"00-{TRACE}-b7ad6b7169203331",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-b7ad6b7169203331-01",
        f"00-{TRACE[:-1]}x-b7ad6b7169203331-01",
        f'00-{TRACE}"-b7ad6b7169203331-01',
    ],
)
def test_a_traceparent_that_is_not_well_formed_is_not_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture, traceparent: str
) -> None:
    assert httpx2.get(f"{serve()}/v1/models", headers={"traceparent": traceparent}).status_code == 200
    assert "trace_id" not in access(caplog)[0]


def test_refused_and_failed_requests_are_logged_with_their_status(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(turns: object) -> str:
        raise ZeroDivisionError

    url = serve(FakeEngine(broken), api_keys="me=right")
    httpx2.get(f"{url}/v1/models")
    with httpx2.Client(base_url=url, headers={"Authorization": "Bearer right"}) as http:
        http.get("/v1/models", headers={"X": 40_000 * "y"})
        http.get("/v1/none%0Aforged")
        http.post("/v1/refine", json={"prompt": "x", "roundz": 1})
        http.post("/v1/refine", json={"prompt": "x"})
    lines = access(caplog, 5)
    assert [line["status"] for line in lines] == [401, 431, 404, 400, 500]
    assert ["key" in line for line in lines] == [False, False, True, True, True]
    assert lines[2]["message"] == "GET /v1/none%0Aforged 404"


def test_a_client_that_goes_is_499(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    url = serve(FakeEngine(token_seconds=0.2))
    body = {"prompt": "x", "rounds": 8}
    with httpx2.stream("POST", f"{url}/v1/refine", json=body | {"stream": True}) as stream:
        next(stream.iter_lines())
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(f"{url}/v1/refine", json=body, timeout=0.3)
    lines = access(caplog, 2)
    assert [(line["status"], line["stream"]) for line in lines] == [(499, True), (499, False)]
    assert lines[0]["bytes"] > 0


def test_a_stream_that_was_read_to_its_end_is_200(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    answer = httpx2.post(f"{serve()}/v1/refine", json={"prompt": "x", "stream": True})
    (line,) = access(caplog)
    assert (line["status"], line["stream"], line["bytes"]) == (200, True, len(answer.content))


@pytest.mark.parametrize("log_content", [False, True])
def test_what_a_handler_adds_stands_in_the_line_and_texts_only_where_they_are_wanted(
    play: Play, caplog: pytest.LogCaptureFixture, log_content: bool
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        Request(scope).state.log |= {"rounds": 2, "queue_ms": 1.5, "content": [{"answer": "hush"}]}
        await PlainTextResponse("done")(scope, receive, send)

    async def scenario() -> None:
        transport = httpx2.ASGITransport(Envelope(app, log_content))
        async with httpx2.AsyncClient(transport=transport, base_url="http://x") as http:
            await http.get("/v1/models")

    play(scenario())
    (line,) = access(caplog)
    assert (line["rounds"], line["queue_ms"], "content" in line) == (2, 1.5, log_content)


def test_probes_are_not_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    url = serve()
    for path in ("/health", "/ready", "/metrics", "/version"):
        httpx2.get(url + path)
    httpx2.get(f"{url}/v1/models")
    assert [line["path"] for line in access(caplog)] == ["/v1/models"]


@pytest.mark.parametrize(("log_format", "is_json"), [("json", True), ("text", False)])
def test_every_line_of_the_process_has_the_format(python: Run, log_format: str, is_json: bool) -> None:
    ended = python(PROGRAM, log_format)
    lines = ended.stderr.splitlines()
    assert (ended.stdout, ended.returncode) == ("", 0)
    if not is_json:
        assert any(line.endswith("WARNING vllm.some: careful") for line in lines)
        return
    logged = [json.loads(line) for line in lines]
    assert [line["logger"] for line in logged] == ["uvicorn.error", "vllm.some", "py.warnings", "asyncio"]
    assert "RuntimeError: boom" in logged[-1]["exception"]


PROGRAM = """
import asyncio, logging, sys, warnings
from slhf_server.observability import logs
logs.configure("info", sys.argv[1])
logging.getLogger("slhf_server").debug("not shown")
logging.getLogger("uvicorn.error").info("started", extra={"color_message": "x"})
logging.getLogger("vllm.some").warning("careful")
warnings.warn("old")
async def main():
    asyncio.get_running_loop().call_soon(boom)
    await asyncio.sleep(0)
def boom():
    raise RuntimeError("boom")
asyncio.run(main())
"""


def test_vllms_own_lines_are_configured_alike() -> None:
    """vLLM reads this file, in its engine's process too; it is made of what Python's logging.config knows."""
    file = Path(loading.__file__).with_name("vllm_logging.json")
    config = json.loads(file.read_text())
    assert config["formatters"]["json"]["()"] == f"{JSONFormatter.__module__}.{JSONFormatter.__qualname__}"
    assert config["loggers"]["vllm"]["level"] == "WARNING"


@pytest.mark.parametrize("log_content", [False, True])
def test_a_refinement_is_told_in_its_line_and_its_texts_where_they_are_asked_for(
    serve: Serve, caplog: pytest.LogCaptureFixture, log_content: bool
) -> None:
    caplog.set_level(logging.INFO, "slhf_server.access")
    body = {"messages": [{"role": "user", "content": "hush"}], "n": 2, "refine": {"rounds": 2}}
    usage = httpx2.post(f"{serve(log_content=log_content)}/v1/chat/completions", json=body).json()["usage"]
    (line,) = access(caplog)
    assert (line["rounds"], line["stop_reason"]) == (2, "rounds_done")
    assert (line["prompt_tokens"], line["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert line["queue_ms"] >= 0
    told = {"messages": ["user: hush"], "answer": "better better draft of: hush"}
    assert line.get("content") == ([told, told] if log_content else None)
