"""Canned upstreams, one for each provider's dialect of OpenAI's format: what it refuses and how it says so, and how it
writes the same answer, "Hello there". Real HTTP servers on 127.0.0.1.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = Mapping[str, Any]
USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
THOUGHT = "SECRET thought"


def takes_everything(body: Body) -> tuple[int, Any] | None:
    return None


@dataclass(frozen=True)
class Provider:
    name: str
    message: Mapping[str, Any]
    """Of a plain answer's choice."""
    stream: bytes
    """The whole body of a streamed one."""
    refuse: Callable[[Body], tuple[int, Any] | None] = takes_everything
    """Status and body of a refusal."""
    finish_reason: str = "stop"
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the upstream, where the dialect needs some."""
    before: bytes = b""
    """What a plain answer's JSON stands behind."""
    plain_kind: str = "application/json"
    stream_kind: str = "text/event-stream"

    def __str__(self) -> str:
        return self.name


def events(*events: Any, end: str = "\n\n", field: str = "data: ", done: bool = True) -> bytes:
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return "".join(f"{field}{text}{end}" for text in texts + ["[DONE]"] * done).encode()


def piece(delta: Mapping[str, Any], finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "x", "object": "chat.completion.chunk", "choices": [choice]} | more


TOTAL = {"id": "x", "object": "chat.completion.chunk", "choices": [], "usage": USAGE}
HELLO = [piece({"role": "assistant", "content": ""}), piece({"content": "Hello"}), piece({"content": " there"})]
ENDS = piece({}, "stop")
FORBIDDEN = {"type": "extra_forbidden", "msg": "Extra inputs are not permitted", "input": {"include_usage": True}}


def openai(body: Body) -> tuple[int, Any] | None:
    if "max_tokens" not in body:
        return None
    message = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    )
    error = {"type": "invalid_request_error", "param": "max_tokens", "code": "unsupported_parameter"}
    return 400, {"error": error | {"message": message}}


def azure(body: Body) -> tuple[int, Any] | None:
    if "stream_options" not in body:
        return None
    detail = {"detail": [FORBIDDEN | {"loc": ["body", "stream_options", "include_usage"]}]}
    return 422, {"error": {"code": "Invalid input", "message": json.dumps(detail), "status": 422}}


def mistral(body: Body) -> tuple[int, Any] | None:
    unknown = [name for name in ("stream_options", "max_completion_tokens") if name in body]
    if not unknown:
        return None
    detail = [FORBIDDEN | {"loc": ["body", name]} for name in unknown]
    return 422, {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error", "code": 3001}


def gemini(body: Body) -> tuple[int, Any] | None:
    unknown = [name for name in ("parallel_tool_calls", "top_k", "min_p") if name in body]
    if not unknown:
        return None
    said = [f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.' for name in unknown]
    violations = {"fieldViolations": [{"description": one} for one in said]}
    error = {"code": 400, "message": "\n".join(said), "status": "INVALID_ARGUMENT", "details": [violations]}
    return 400, [{"error": error}]


def go(body: Body) -> tuple[int, Any] | None:
    """Servers in Go, as strict as their JSON decoder is."""
    return (400, {"error": 'json: unknown field "stream_options"'}) if "stream_options" in body else None


def litellm(body: Body) -> tuple[int, Any] | None:
    if "stream_options" not in body:
        return None
    inner = {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "input": dict(body)}]}
    message = f"litellm.BadRequestError: OpenAIException - Error code: 422 - {inner}"
    return 400, {"error": {"message": message, "type": None, "param": None, "code": "400"}}


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]}
TEXT = [{"type": "text", "text": "Hello"}, {"type": "text", "text": " there"}]

PROVIDERS = [
    Provider(
        "openai",
        {"content": "Hello there", "refusal": None, "annotations": []},
        events(*HELLO, ENDS, TOTAL),
        openai,
        settings={"max_tokens_parameter": "max_tokens"},
    ),
    Provider(
        "azure-serverless",
        {"content": "Hello there"},
        events({"choices": [], "prompt_filter_results": [{}]}, *HELLO, piece({}, "stop", usage=USAGE)),
        azure,
    ),
    Provider(
        "mistral",
        {"content": [THINKING, *TEXT]},
        events(piece({"content": [THINKING]}), *[piece({"content": [one]}) for one in TEXT], piece({}, "stop"), TOTAL),
        mistral,
    ),
    Provider(
        "gemini",
        {"content": "Hello there", "extra_content": {"google": {}}},
        events(*HELLO[1:], ENDS | {"usage": USAGE}),
        gemini,
        finish_reason="STOP",
    ),
    Provider(
        "deepseek",
        {"content": "Hello there", "reasoning_content": THOUGHT},
        b": keep-alive\n\n" * 3 + events(piece({"content": None, "reasoning_content": THOUGHT}), *HELLO, ENDS, TOTAL),
        before=b"\n\n\n",
    ),
    Provider(
        "openrouter",
        {"content": "Hello there", "reasoning": THOUGHT, "reasoning_details": [{"text": THOUGHT}]},
        b": OPENROUTER PROCESSING\n\n"
        + events(
            piece({"content": "", "reasoning": THOUGHT}), *HELLO, piece({}, "stop", native_finish_reason="eos"), TOTAL
        ),
    ),
    Provider(
        "vllm",
        {"content": "Hello there", "reasoning": THOUGHT, "tool_calls": [], "function_call": None, "audio": None},
        events(piece({"reasoning": THOUGHT}), *[one | {"usage": USAGE} for one in HELLO], ENDS, TOTAL),
    ),
    Provider(
        "ollama",
        {"content": "Hello there", "reasoning": THOUGHT},
        events(*HELLO, piece({"content": ""}, "stop"), TOTAL, field="data:"),
        go,
    ),
    Provider(
        "anthropic",
        {"content": "Hello there"},
        events(*HELLO, piece({}, "end_turn"), TOTAL, end="\r\n\r\n", done=False),
        finish_reason="end_turn",
    ),
    Provider(
        "litellm",
        {"content": "Hello there", "thinking_blocks": [{"thinking": THOUGHT}], "provider_specific_fields": {"a": 1}},
        events(*HELLO, ENDS, TOTAL),
        litellm,
        stream_kind="text/event-stream; charset=utf-8",
    ),
    Provider(  # a gateway that cannot stream answers with the whole, and one that always streams with events
        "gateway-without-streams",
        {"content": "Hello there"},
        json.dumps(
            {"choices": [{"message": {"content": "Hello there"}, "finish_reason": "stop"}], "usage": USAGE}
        ).encode(),
        stream_kind="application/json; charset=utf-8",
    ),
]


@dataclass
class Canned:
    url: str
    asked: list[Any] = field(default_factory=list)
    """The bodies of the requests for a completion."""


@contextmanager
def served(provider: Provider) -> Iterator[Canned]:
    canned = Canned("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self._send(200, "application/json", b'{"object": "list", "data": []}')

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            canned.asked.append(body)
            if (refused := provider.refuse(body)) is not None:
                self._send(refused[0], "application/json", json.dumps(refused[1]).encode())
            elif body["stream"]:
                self._send(200, provider.stream_kind, provider.stream)
            else:
                choice = {"index": 0, "message": provider.message, "finish_reason": provider.finish_reason}
                whole = json.dumps({"choices": [choice], "usage": USAGE}).encode()
                self._send(200, provider.plain_kind, provider.before + whole)

        def _send(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    canned.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield canned
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
