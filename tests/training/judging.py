"""A judge's endpoint on 127.0.0.1: a real HTTP server of the standard library that answers as a test says."""

import contextlib
import json
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any]


@dataclass
class Endpoint:
    answer: Callable[[Any], Reply]
    url: str = ""
    asked: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


def letters(**p: float) -> Reply:
    """A completion whose first token has these probabilities."""
    alternatives = [{"token": token, "logprob": math.log(share)} for token, share in p.items()]
    return 200, {"choices": [{"logprobs": {"content": [{"top_logprobs": alternatives}]}}]}


def written(*tokens: str | dict[str, float]) -> Reply:
    """A completion of several tokens: each one's text, or the alternatives of which the most likely one was taken."""
    content = []
    for token in tokens:
        p: dict[str, float] = {token: 1.0} if isinstance(token, str) else token
        alternatives = [{"token": text, "logprob": math.log(share)} for text, share in p.items()]
        content.append({"token": max(p.items(), key=lambda item: item[1])[0], "top_logprobs": alternatives})
    return 200, {"choices": [{"logprobs": {"content": content}}]}


def answers_of(request: Any) -> tuple[str, str]:
    """A and B as the judge reads them."""
    text = request["messages"][0]["content"]
    a = text.partition("[Answer A]\n")[2].partition("\n\n[Answer B]")[0]
    return a, text.partition("[Answer B]\n")[2].partition("\n\nWhich")[0]


@contextlib.contextmanager
def endpoint(answer: Callable[[Any], Reply]) -> Iterator[Endpoint]:
    here = Endpoint(answer)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            request = json.loads(self.rfile.read(length)) if length else None
            with lock:
                here.asked.append(request)
                here.headers.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
                status, body = here.answer(request)
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            """Silence: the test reads `asked`."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        here.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            yield here
        finally:
            server.shutdown()
            thread.join(10)
