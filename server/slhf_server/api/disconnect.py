"""Ends a request's work when its client goes away."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

T = TypeVar("T")


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result. Cancels the work and raises ClientDisconnect when the client goes away first.

    The body must have been read: after it, the only message a client can send is its disconnect.
    """
    watching = asyncio.ensure_future(request.receive())
    try:
        async with asyncio.timeout(None) as connected:
            leave = partial(_end, connected)
            watching.add_done_callback(leave)
            try:
                return await work
            finally:
                watching.remove_done_callback(leave)
    except TimeoutError as exc:
        if not connected.expired():
            raise  # the work's own
        raise ClientDisconnect() from exc
    finally:
        watching.cancel()
        await asyncio.wait({watching})
        del connected, leave, watching  # they know tasks, whose exceptions know this frame: circles that keep it


def _end(timeout: asyncio.Timeout, _: object) -> None:
    timeout.reschedule(asyncio.get_running_loop().time())
