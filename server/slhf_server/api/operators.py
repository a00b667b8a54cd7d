"""The operators' port, which has a key of its own: what API keys have used, and the engine's sleep by vLLM's names."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel

from slhf_server.access.keys import Key, Keyring
from slhf_server.access.spending import utc_now
from slhf_server.api.dependencies import RunningService
from slhf_server.api.error_handlers import errors

router = APIRouter()


class KeyUse(BaseModel):
    """What one API key has used."""

    name: str
    requests: int
    """Since this process began, as the next two."""
    prompt_tokens: int
    completion_tokens: int
    tokens_today: int
    """Prompt and completion tokens since midnight of UTC, of all replicas where they share their limits."""
    tokens_per_day: int | None
    """Its limit; null: unlimited."""


class UsageReport(BaseModel):
    day: str
    """The day of UTC, as `2026-11-29`."""
    keys: list[KeyUse]


async def _keyring(request: Request) -> Keyring:  # a coroutine, because FastAPI calls others in a thread
    keyring: Keyring = request.app.state.clients
    return keyring


@router.get("/usage", responses=errors(401))
async def usage(keyring: Annotated[Keyring, Depends(_keyring)]) -> UsageReport:
    used = [_used(key, await keyring.spent_today(key)) for key in keyring]
    return UsageReport(day=utc_now().date().isoformat(), keys=used)


def _used(key: Key, today: int) -> KeyUse:
    spent = key.spending
    return KeyUse(
        name=key.entry.name,
        requests=spent.requests,
        prompt_tokens=spent.prompt_tokens,
        completion_tokens=spent.completion_tokens,
        tokens_today=today,
        tokens_per_day=key.entry.tokens_per_day,
    )


class Sleeping(BaseModel):
    is_sleeping: bool


@router.post("/sleep", responses=errors(400, 401, 503))
async def sleep(
    service: RunningService, level: Annotated[int, Query(ge=1, le=1)] = 1, mode: Literal["wait"] = "wait"
) -> Sleeping:
    """Answered once the device's memory is free. Of vLLM's levels there is the one whose weights come back, and of its
    modes the one that loses no answer."""
    await service.sleep()
    return Sleeping(is_sleeping=service.asleep)


@router.post("/wake_up", responses=errors(401))
async def wake_up(service: RunningService) -> Sleeping:
    await service.wake_up()
    return Sleeping(is_sleeping=service.asleep)


@router.get("/is_sleeping", responses=errors(401))
async def is_sleeping(service: RunningService) -> Sleeping:
    return Sleeping(is_sleeping=service.asleep)
