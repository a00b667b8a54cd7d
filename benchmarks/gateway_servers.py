"""The two servers that benchmarks/gateway.py compares; both are run by uvicorn in the same way.

    python -m benchmarks.gateway_servers slhf|paced|echo --port PORT

`slhf` is the server as `slhf-server` runs it, on a fake model that answers at once; `paced`, for benchmarks/scrape.py,
on one that takes its time for each token. `echo` is FastAPI alone.
"""

import argparse
import asyncio
import json
from collections.abc import AsyncGenerator, Sequence

import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from slhf_server.cli import bind, serve
from slhf_server.models.base import Turn
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import Settings

SHORT = 8
"""Words (tokens) of an answer whose question does not name a number."""


PACE_S = 0.02
"""Of a token of the paced model."""


def fake(token_seconds: float) -> FakeEngine:
    """Answers with as many words as the question's first word says."""

    def reply(turns: Sequence[Turn]) -> str:
        engine.leader.calls.clear()  # what the fake keeps for tests would only grow here
        engine.follower.calls.clear()
        first = turns[0].text.split(maxsplit=1)[0]
        return "word " * (int(first) - 1 if first.isdecimal() else SHORT - 1) + "end"

    engine = FakeEngine(reply, token_seconds=token_seconds)
    return engine


class EchoMessage(BaseModel):
    role: str
    content: str


class EchoBody(BaseModel):
    model: str
    messages: list[EchoMessage]
    stream: bool = False
    temperature: float | None = None
    max_tokens: int | None = None


echo = FastAPI()
_CHUNK = {
    "id": "chatcmpl-" + "0" * 32,
    "object": "chat.completion.chunk",
    "created": 1700000000,
    "model": "fake",
    "choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": None, "logprobs": None}],
}
_FRAME = f"data: {json.dumps(_CHUNK)}\n\n".encode()


@echo.get("/ready")
async def ready() -> dict[str, str]:
    return {"status": "ready"}


@echo.post("/echo")
async def plain(request: Request) -> Response:
    return Response(await request.body(), media_type="application/json")


@echo.post("/model")
async def with_model(body: EchoBody) -> EchoBody:
    return body


@echo.post("/stream/{frames}")
async def stream(frames: int, request: Request) -> StreamingResponse:
    """As many frames, of the size of a chat's, each after one turn of the event loop, as the fake model's words."""
    await request.body()

    async def events() -> AsyncGenerator[bytes, None]:
        for _ in range(frames):
            await asyncio.sleep(0)
            yield _FRAME

    return StreamingResponse(events(), media_type="text/event-stream")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", choices=("slhf", "paced", "echo"))
    parser.add_argument("--port", type=int, required=True)
    asked = parser.parse_args()
    settings = Settings(port=asked.port)
    listener = bind(settings)
    if asked.server != "echo":
        engine = fake(PACE_S if asked.server == "paced" else 0.0)
        asyncio.run(serve(settings, listener, engine.open))
    else:
        server = uvicorn.Server(uvicorn.Config(echo, log_config=None, access_log=False))
        asyncio.run(server.serve(sockets=[listener]))


if __name__ == "__main__":
    main()
