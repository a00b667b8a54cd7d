"""A refinement server without a model, and a server of raw bytes. A refined text is `better {draft}`."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from slhf import (
    Refinement,
    RefinementCompleted,
    RefineRequest,
    RefineResponse,
    Round,
    RoundCompleted,
    RoundDelta,
    RoundStarted,
    Usage,
)
from slhf.wire import ErrorBody, ErrorEvent, ErrorResponse, Event, RefinementUsage

USAGE = Usage.of(10, 5)
MODEL = {"id": "duo", "object": "model", "created": 1, "root": "base/model", "card": {"trained": "stackelberg"}}


def rounds_of(request: RefineRequest) -> list[Round]:
    question = request.prompt if request.prompt is not None else (request.messages or [])[-1].text
    texts = [question if request.draft is None else request.draft]
    for _ in range(1 if request.rounds is None else request.rounds):
        texts.append(f"better {texts[-1]}")
    return [
        Round(
            round=index,
            role="follower" if index else "client",
            model="duo",
            text=text,
            finish_reason="stop",
            usage=USAGE if index else Usage(),
            latency_ms=1,
        )
        for index, text in enumerate(texts)
    ]


def answer(request: RefineRequest) -> RefineResponse:
    rounds = rounds_of(request)
    usage = RefinementUsage(rounds=[entry.usage for entry in rounds[1:]])
    refinement = Refinement(
        applied=len(rounds) > 1,
        rounds_requested=len(rounds) - 1,
        rounds_run=len(rounds) - 1,
        returned_round=len(rounds) - 1,
        stop_reason="rounds_done",
        draft_source="client",
        duration_ms=1,
        usage=usage,
        rounds=rounds,
    )
    return RefineResponse(
        id="refine-1",
        created=1,
        model="duo",
        output=rounds[-1].text,
        finish_reason="stop",
        refinement=refinement,
        usage=usage.total(),
    )


def events(request: RefineRequest) -> list[Event]:
    told: list[Event] = []
    for entry in rounds_of(request):
        told.append(RoundStarted(round=entry.round, role=entry.role, model=entry.model))
        if entry.round > 0:
            told += [RoundDelta(round=entry.round, delta=word) for word in entry.text.split(" ")]
        told.append(RoundCompleted(**entry.model_dump()))
    return [*told, RefinementCompleted(**answer(request).model_dump())]


def sse(told: list[Event]) -> bytes:
    return b"".join(f": ping\n\nevent: {event.type}\ndata: {event.model_dump_json()}\n\n".encode() for event in told)


def error(status: int, code: str | None = None, message: str = "no", headers: dict[str, str] | None = None) -> Response:
    body = ErrorResponse(error=ErrorBody(message=message, type="some_error", code=code))
    return JSONResponse(body.model_dump(), status, headers)


def error_event(code: str | None, type_: str = "some_error") -> ErrorEvent:
    return ErrorEvent(error=ErrorBody(message="no", type=type_, code=code))


Verdict = Callable[[RefineRequest], Response | None]


class FakeServer:
    """`verdict` may answer in the model's stead; after `hold_after` refinements the server answers no more."""

    def __init__(self, verdict: Verdict = lambda request: None, hold_after: int | None = None) -> None:
        self.requests: list[RefineRequest] = []
        self.keys: list[str | None] = []
        self.verdict = verdict
        self.hold_after = hold_after
        self.holding = threading.Event()
        self.running = 0
        self.most_running = 0
        self.app = Starlette(
            routes=[
                Route("/v1/refine", self.refine, methods=["POST"]),
                Route("/v1/models", self.models),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
            ]
        )

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [MODEL]})

    async def refine(self, http: Request) -> Response:
        request = RefineRequest.model_validate_json(await http.body())
        self.requests.append(request)
        self.keys.append(http.headers.get("Authorization"))
        if self.hold_after is not None and len(self.requests) > self.hold_after:
            self.holding.set()
            await asyncio.Event().wait()
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        await asyncio.sleep(0)  # lets others in, which `most_running` then counts
        self.running -= 1
        if (refusal := self.verdict(request)) is not None:
            return refusal
        if request.stream:
            return Response(sse(events(request)), media_type="text/event-stream")
        return JSONResponse(answer(request).model_dump())

    async def chat(self, http: Request) -> Response:
        body = await http.json()
        refined = answer(RefineRequest(messages=body["messages"], **body["refine"]))
        told = {"id": "chatcmpl-1", "created": 1, "model": body["model"], "usage": refined.usage.model_dump()}
        message = {"role": "assistant", "content": refined.output}
        if not body.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            told |= {"object": "chat.completion", "refinement": refined.refinement.model_dump(), "choices": [choice]}
            return JSONResponse(told)
        choice = {"index": 0, "delta": message, "finish_reason": "stop"}
        chunk = JSONResponse(told | {"object": "chat.completion.chunk", "choices": [choice]}).body
        return Response(b"data: " + bytes(chunk) + b"\n\ndata: [DONE]\n\n", media_type="text/event-stream")


@contextlib.contextmanager
def live(app: ASGIApp) -> Iterator[str]:
    """An application on a real port; yields its base URL. The socket listens at once, so nobody has to wait for it."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(timeout=10)
        listening.close()


@contextlib.contextmanager
def raw_server(payload: bytes, *, reset: bool = False) -> Iterator[tuple[str, list[bytes]]]:
    """Answers each connection with `payload` and hangs up, or resets it; yields its URL and the requests it got."""
    got: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            with listening.accept()[0] as connection:
                if not (request := connection.recv(1 << 16)):
                    return
                got.append(request)
                connection.sendall(payload)
                if reset:  # SO_LINGER with zero seconds: close() sends RST
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", got
    finally:
        socket.create_connection(listening.getsockname()).close()  # an empty connection ends it
        thread.join(timeout=10)
        listening.close()
