"""A reward model behind HTTP: `slhf-train reward serve`, which the server's judge `reward` and the preference
`remote-reward` ask.

    POST /rewards    {"conversations": [[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]]}
    200              {"rewards": [1.5]}    one for each; null where it is longer than the model reads
    GET  /health     200 {"head": "..."}
    else             {"error": "..."}     400 what cannot be read, 401 another key, 408 too slow, 413 too large,
                                          503 too many wait

What waits is scored in one batch, at most `MOST` conversations; one thread computes. docs/design.md says why vLLM's
pooling engine does not play this part.
"""

import asyncio
import hmac
import math
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from slhf_training.errors import DataError, SettingsError
from slhf_training.reward.model import RewardModel
from slhf_training.types import Chat

MOST = 64
"""Conversations of a request, and of a batch."""
CONNECTIONS = 256
"""More are answered by 503 at once; each may hold a body."""


@dataclass(frozen=True, slots=True)
class Limits:
    bytes: int = 4 << 20
    """Of a request's body."""
    seconds: float = 30.0
    """Until a body has to be there."""
    waiting: int = 1024
    """Conversations that may wait to be scored."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Turn(_Strict):
    role: Literal["system", "user", "assistant"]
    content: str


class Asked(_Strict):
    conversations: list[list[Turn]] = Field(min_length=1, max_length=MOST)

    @field_validator("conversations")
    @classmethod
    def _end_with_an_answer(cls, conversations: list[list[Turn]]) -> list[list[Turn]]:
        if any([turn.role for turn in turns[-2:]] != ["user", "assistant"] for turns in conversations):
            raise ValueError("a conversation ends with a user's turn and the assistant's answer")
        return conversations


@dataclass(frozen=True, slots=True)
class _Job:
    chats: list[Chat]
    answers: list[str]
    rewards: "asyncio.Future[list[float | None]]"


class Scorer:
    """Scores what waits, in batches and in the order in which it came."""

    def __init__(self, model: RewardModel, head: str, most_waiting: int) -> None:
        self.head = head
        self._model = model
        self._most_waiting = most_waiting
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._waiting = 0

    async def rewards(self, asked: Asked) -> list[float | None]:
        """One for each conversation; None where it is too long. Raises HTTPException where too many wait, DataError for
        turns that the model's chat template refuses."""
        if self._waiting + len(asked.conversations) > self._most_waiting:
            raise HTTPException(503, "too many conversations wait", headers={"retry-after": "1"})
        chats: list[Chat] = [[turn.model_dump() for turn in turns[:-1]] for turns in asked.conversations]  # type: ignore[misc]
        answers = [turns[-1].content for turns in asked.conversations]
        job = _Job(chats, answers, asyncio.get_running_loop().create_future())
        self._waiting += len(answers)
        try:
            self._jobs.put_nowait(job)
            return await job.rewards
        finally:
            self._waiting -= len(answers)

    async def run(self) -> None:
        """Until it is cancelled."""
        following: _Job | None = None
        while True:
            jobs = [following or await self._jobs.get()]
            following = None
            while following is None and not self._jobs.empty():
                job = self._jobs.get_nowait()
                if sum(len(one.answers) for one in (*jobs, job)) > MOST:
                    following = job
                else:
                    jobs.append(job)
            await self._score(jobs)

    async def _score(self, jobs: Sequence[_Job]) -> None:
        chats = [chat for job in jobs for chat in job.chats]
        answers = [answer for job in jobs for answer in job.answers]
        try:
            scores = (await asyncio.to_thread(self._model.scores, chats, answers, [self.head]))[0].tolist()
        except Exception as exc:  # noqa: BLE001  whatever it is, it is this batch's, and the next one must be scored
            if len(jobs) > 1:  # of several requests one alone may be to blame
                for job in jobs:
                    await self._score([job])
            elif not jobs[0].rewards.done():
                jobs[0].rewards.set_exception(exc)
            return
        for job in jobs:
            own, scores = scores[: len(job.answers)], scores[len(job.answers) :]
            if not job.rewards.done():  # who asked may be gone
                job.rewards.set_result([score if math.isfinite(score) else None for score in own])


def application(model: RewardModel, head: str, authorization: str = "", limits: Limits = Limits()) -> Starlette:
    """The application for one head of the model. `authorization`: the header that callers have to send; "": none."""
    scorer = Scorer(model, head, limits.waiting)

    async def rewards(request: Request) -> JSONResponse:
        said = request.headers.get("authorization", "").encode()
        if authorization and not hmac.compare_digest(said, authorization.encode()):
            raise HTTPException(401, "another key is needed")
        return JSONResponse({"rewards": await scorer.rewards(await _read(request, limits))})

    async def health(request: Request) -> JSONResponse:
        return JSONResponse({"head": scorer.head})

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(scorer.run())
        yield
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    return Starlette(
        routes=[Route("/rewards", rewards, methods=["POST"]), Route("/health", health)],
        exception_handlers={HTTPException: _refused, DataError: _unreadable, Exception: _failed},
        lifespan=lifespan,
    )


def served_model(directory: Path, head: str | None) -> tuple[RewardModel, str]:
    """The model and the name of its head. Raises SettingsError where there are several heads and none is named."""
    model = RewardModel.load(directory)
    if head is None and len(model.heads) > 1:
        raise SettingsError(f"--head: {directory} has several: {', '.join(model.heads)}")
    found = head or next(iter(model.heads))
    model.require([found], f"--head: {directory}")
    return model, found


def listener(host: str, port: int) -> socket.socket:
    """Bound before the model is loaded. Raises SettingsError naming host and port."""
    if not 0 <= port < 1 << 16:
        raise SettingsError(f"--port {port}: ports are 0 to 65535")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as exc:
        raise SettingsError(f"--host {host}, --port {port}: cannot bind: {exc}") from exc


def serve(app: Starlette, bound: socket.socket) -> None:
    """Until a signal ends it."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=10
    )
    with suppress(KeyboardInterrupt):  # uvicorn has ended in good order and raises the signal again
        uvicorn.Server(config).run(sockets=[bound])


async def _read(request: Request, limits: Limits) -> Asked:
    body = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.bytes:
                    raise HTTPException(413, f"a body has at most {limits.bytes} bytes")
        return Asked.model_validate_json(bytes(body))
    except ClientDisconnect as exc:
        raise HTTPException(400, "the body ended too early") from exc
    except TimeoutError as exc:
        raise HTTPException(408, f"the body was not there after {limits.seconds:g} s") from exc
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        raise HTTPException(400, f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from exc


async def _refused(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)
    return JSONResponse({"error": exc.detail}, exc.status_code, headers=exc.headers)


async def _unreadable(request: Request, exc: Exception) -> JSONResponse:
    return JSONResponse({"error": str(exc)}, 400)


async def _failed(request: Request, exc: Exception) -> JSONResponse:
    return JSONResponse({"error": "the model failed"}, 500)  # the traceback is logged by whoever called us
