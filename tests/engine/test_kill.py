"""The engine's process is killed under load: everybody gets an answer, and the server ends for its supervisor."""

import concurrent.futures
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.engine.conftest import LiveServer, live_server
from tests.engine.test_lifecycle import await_end

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
CLIENTS = 16


def body(number: int) -> dict[str, Any]:
    """Mixed: with a draft and without, streamed and not, in two rounds."""
    draft = {} if number % 2 else {"draft": "Once upon a time there was a fox."}
    return {"prompt": f"Tell long story number {number}.", "rounds": 2, "stream": number % 4 >= 2, **draft}


def ask(server: LiveServer, number: int) -> str:
    """What a client is left with: `text`, or the code of a clean error."""
    with httpx2.stream("POST", f"{server.url}/v1/refine", json=body(number), timeout=120) as answer:
        if answer.headers["content-type"].startswith("text/event-stream"):
            return streamed(list(answer.iter_lines()))
        answer.read()
    if answer.status_code == 200:
        result = answer.json()
        assert result["output"] == result["refinement"]["rounds"][-1]["text"]
        return "text"
    assert answer.status_code == 503
    return str(answer.json()["error"]["code"])


def streamed(lines: list[str]) -> str:
    """The last event of a stream that was not cut."""
    last = json.loads([line for line in lines if line.startswith("data: ")][-1].removeprefix("data: "))
    if last["type"] == "error":
        return str(last["error"]["code"])
    assert last["type"] == "refinement.completed"
    return "text"


def engine_process(family: set[int]) -> int:
    names = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in family}
    return next(pid for pid, name in names.items() if "EngineCore" in name)


def test_when_the_engine_is_killed_every_client_is_answered_and_the_server_ends(tmp_path: Path) -> None:
    with live_server(tmp_path) as server:
        family = server.processes()
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            asking = [pool.submit(ask, server, number) for number in range(CLIENTS)]
            while server.metric("vllm:num_requests_running") < CLIENTS:
                assert not any(client.done() for client in asking)
            os.kill(engine_process(family), signal.SIGKILL)
            results = [client.result(120) for client in asking]
        assert set(results) <= {"text", "engine_unavailable"}
        assert "text" in results[0::2]  # a draft is a finished text
        with contextlib.suppress(httpx2.TransportError):
            assert httpx2.get(f"{server.url}/ready", timeout=10).status_code == 503
        assert server.process.wait(30) == 1
        assert "slhf-server: the engine has died" in server.log.read_text().splitlines()
        await_end(family)
