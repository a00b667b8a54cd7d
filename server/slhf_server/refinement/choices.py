"""OpenAI's `n`: independent chains of one request, played at once."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from slhf_server.refinement.loop import RefinementEvent
from slhf_server.refinement.state import RefinementResult


async def merge_streams(
    chains: Sequence[AsyncGenerator[RefinementEvent, None]],
) -> AsyncGenerator[tuple[int, RefinementEvent], None]:
    """The events of a request's chains. One chain alone needs no tasks."""
    if len(chains) > 1:
        async with aclosing(_merged(chains)) as events:
            async for numbered in events:
                yield numbered
        return
    async with aclosing(chains[0]) as only:
        async for event in only:
            yield 0, event


async def _merged(
    chains: Sequence[AsyncGenerator[RefinementEvent, None]],
) -> AsyncGenerator[tuple[int, RefinementEvent], None]:
    """The events of all chains as they come, each with its chain's number. Closing it closes every chain.

    A chain that fails does not take the others with it: its error is raised when they have ended.
    """
    errors: list[Exception] = []
    waiting = {asyncio.ensure_future(anext(chain)): number for number, chain in enumerate(chains)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                number = waiting.pop(task)
                try:
                    event = task.result()
                except Exception as exc:  # noqa: BLE001  raised below
                    errors.append(exc)
                    continue
                yield number, event
                if not isinstance(event, RefinementResult):
                    waiting[asyncio.ensure_future(anext(chains[number]))] = number
        if errors:
            raise errors[0]
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for chain in chains:
            await chain.aclose()
