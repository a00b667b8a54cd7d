"""The application called as a server would call it, with a scope of one's own making: prefixes, mounts, odd paths."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


class Loop:
    """An event loop on which an application lives until `close`."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self._runner = asyncio.Runner()
        self._life = app.router.lifespan_context(app)
        self._runner.run(self._life.__aenter__())
        self._runner.run(app.state.service.loading())

    def close(self) -> None:
        self._runner.run(self._life.__aexit__(None, None, None))
        self._runner.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        root_path: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        through: ASGIApp | None = None,
    ) -> Answer:
        """One request; `through` another application that this one is mounted in."""
        fields = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": root_path,
            "query_string": b"",
            "headers": [(b"host", b"x"), *fields],
            "server": ("x", 80),
            "client": ("127.0.0.1", 1),
        }
        return self._runner.run(_played(through or self.app, scope, body))

    def shake(self, path: str, headers: list[tuple[bytes, bytes]], extensions: dict[str, Any]) -> list[Message]:
        """A WebSocket's handshake: what the application sends."""
        scope: dict[str, Any] = {"type": "websocket", "path": path, "raw_path": path.encode(), "root_path": ""}
        scope |= {"query_string": b"", "scheme": "ws", "headers": headers, "subprotocols": [], "extensions": extensions}
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "websocket.connect"}

        async def send(message: Message) -> None:
            sent.append(message)

        async def call() -> None:
            await self.app(scope, receive, send)

        self._runner.run(call())
        return sent


async def _played(app: ASGIApp, scope: dict[str, Any], body: bytes) -> Answer:
    answer = Answer()
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    ended = asyncio.Event()

    async def receive() -> Message:
        if not messages:
            await ended.wait()
            return {"type": "http.disconnect"}
        return messages.pop()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in message["headers"]}
        else:
            answer.body += message.get("body", b"")

    await app(scope, receive, send)
    ended.set()
    return answer
