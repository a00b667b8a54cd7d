"""A server that judges: a chat model that is asked for a letter, and a reward model. A test says what they answer."""

import http.server
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

ChatAnswer = Callable[[Mapping[str, Any]], tuple[int, Any]]
"""Status and JSON for a request of `chat/completions`."""


class Canned(http.server.ThreadingHTTPServer):
    def __init__(self, chat: ChatAnswer, reward: Callable[[str], float | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.chat = chat
        self.reward = reward
        self.status = 200
        """Of answers with rewards."""
        self.asked: list[Any] = []
        """Bodies, in the order in which they came."""
        self.keys: list[str | None] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Canned

    def do_GET(self) -> None:
        self._answer(200, {"data": []})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.keys.append(self.headers.get("Authorization"))
        if self.path.endswith("/chat/completions"):
            self._answer(*self.server.chat(body))
            return
        rewards = [self.server.reward(chat[-1]["content"]) for chat in body["conversations"]]
        self._answer(self.server.status, {"rewards": rewards})

    def _answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def canned(chat: ChatAnswer | None = None, reward: Callable[[str], float | None] = len) -> Iterator[Canned]:
    with Canned(chat or prefers(len), reward) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)


def answers_of(body: Mapping[str, Any]) -> tuple[str, str]:
    """The two answers, A and B, as the question quotes them."""
    text = body["messages"][-1]["content"]
    a, b = text.partition("\n\n[Answer A]\n")[2].split("\n\n[Answer B]\n")
    return a, b.partition("\n\nWhich answer is better?")[0]


def prefers(worth: Callable[[str], float], *, logprobs: bool = True) -> ChatAnswer:
    """A model that finds A better with the odds of what both are worth."""

    def answer(body: Mapping[str, Any]) -> tuple[int, Any]:
        a, b = map(worth, answers_of(body))
        p = 1 / (1 + math.exp(b - a))
        return 200, said("A" if p >= 0.5 else "B", {"A": p, "B": 1 - p} if logprobs else None)

    return answer


def said(text: str, likely: Mapping[str, float] | None = None) -> dict[str, Any]:
    """A completion, with the probabilities of its first token's candidates."""
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    if likely is not None:
        top = [{"token": token, "logprob": math.log(max(p, 1e-9)), "bytes": None} for token, p in likely.items()]
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    return {"choices": [choice], "usage": {"prompt_tokens": 30, "completion_tokens": 1, "total_tokens": 31}}


def refuses(name: str, then: ChatAnswer) -> ChatAnswer:
    """A model that does not know a parameter."""

    def answer(body: Mapping[str, Any]) -> tuple[int, Any]:
        if name in body:
            message = f"Unsupported parameter: '{name}' is not supported with this model."
            return 400, {"error": {"message": message, "type": "invalid_request_error", "param": name, "code": None}}
        return then(body)

    return answer
