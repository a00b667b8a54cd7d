"""A LiteLLM proxy with our guardrail in several settings, and what stands around it, for check_litellm_proxy.py.

Its upstream is the server itself: asked with `rounds: 0` it drafts, in OpenAI's or Anthropic's API. The rest is canned.
"""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.sdks.checks import BASE_URL, URL

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else its import downloads a price list
MASTER_KEY = f"sk-{secrets.token_hex(32)}"
GUARDRAIL = {"guardrail": "slhf.integrations.litellm.SlhfRefine", "mode": "post_call"}
STARTS_WITHIN_S = 100
SAID, CALL = "I look it up.", {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


PORT = free_port()
NOWHERE = f"http://127.0.0.1:{free_port()}"


class Canned(BaseHTTPRequestHandler):
    """A refiner that reads and never answers, and an upstream that calls tools, or breaks off where it streams."""

    asked: list[dict[str, Any]] = []
    end = threading.Event()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/refine":
            self.asked.append(body)
            self.end.wait()
        elif body.get("stream"):
            self.answer("text/event-stream", f"data: {json.dumps(chunk('half'))}\n\ndata: {{", short=True)
        else:
            message = {"role": "assistant", "content": SAID, "tool_calls": [CALL]}
            choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
            self.answer("application/json", json.dumps({**chunk(""), "object": "chat.completion", "choices": [choice]}))

    def answer(self, kind: str, text: str, *, short: bool = False) -> None:
        """`short`: the connection ends before the promised length."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text) + short))
        self.end_headers()
        self.wfile.write(text.encode())
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


def chunk(text: str) -> dict[str, Any]:
    delta = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "canned", "choices": [delta]}


def config(canned: str) -> dict[str, Any]:
    def model(name: str, of: str, base: str, **more: Any) -> dict[str, Any]:
        return {"model_name": name, "litellm_params": {"model": of, "api_base": base, "api_key": "none", **more}}

    def guardrail(name: str, base: str, **more: Any) -> dict[str, Any]:
        return {"guardrail_name": name, "litellm_params": {**GUARDRAIL, "api_base": base, **more}}

    drafts = {"extra_body": {"refine": {"rounds": 0}}}
    return {
        "model_list": [
            model("base", "openai/fake", BASE_URL, **drafts),
            model("claude", "anthropic/fake", URL),
            model("completions", "text-completion-openai/fake", BASE_URL, **drafts),
            model("canned", "openai/canned", f"{canned}/v1"),
        ],
        "litellm_settings": {"sse_keepalive_ping_interval_seconds": 0.2},
        "guardrails": [
            guardrail("refine", "os.environ/SLHF_BASE_URL"),
            guardrail("strict", "os.environ/SLHF_BASE_URL", refine={"on_error": "fail"}),
            guardrail("down", NOWHERE),
            guardrail("slow", canned, timeout=0.1),
        ],
    }


@contextlib.contextmanager
def proxy() -> Iterator[Path]:
    """Runs until it is left; yields the file with what it prints."""
    with tempfile.TemporaryDirectory() as folder, ThreadingHTTPServer(("127.0.0.1", 0), Canned) as canned:
        threading.Thread(target=canned.serve_forever, daemon=True).start()
        file, log = Path(folder) / "config.yaml", Path(folder) / "log"
        file.write_text(json.dumps(config(f"http://127.0.0.1:{canned.server_port}")))  # JSON is YAML
        command = [str(Path(sys.executable).with_name("litellm")), "--config", str(file), "--host", "127.0.0.1"]
        settings = {**os.environ, "LITELLM_MASTER_KEY": MASTER_KEY}
        with (
            log.open("w") as said,
            subprocess.Popen([*command, "--port", str(PORT)], env=settings, stdout=said, stderr=said) as running,
        ):
            try:
                await_listening(running, log)
                yield log
            finally:
                running.terminate()
                Canned.end.set()
                canned.shutdown()


def await_listening(running: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < until and running.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", PORT), timeout=1):
            return
        time.sleep(0.2)
    raise AssertionError(log.read_text())
