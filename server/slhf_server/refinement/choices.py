"""OpenAI's `n`: independent chains of one request, played at once."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from slhf_server.refinement.loop import RefinementEvent
from slhf_server.refinement.state import RefinementResult

Chain = AsyncGenerator[RefinementEvent, None]
Numbered = tuple[int, RefinementEvent | Exception]
"""A chain's number with one of its events, or with the exception that it failed with."""


def merge_streams(chains: Sequence[Chain]) -> "OneStream | AsyncGenerator[Numbered, None]":
    """The events of a request's chains as they come. Closing the iterator closes every chain.

    A chain that fails does not end the others: its exception is its last item.
    """
    return _merged(chains) if len(chains) > 1 else OneStream(chains[0])


class OneStream:
    """The events of a single chain, which needs no tasks. It is no generator, because every token passes here."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def __aiter__(self) -> "OneStream":
        return self

    async def __anext__(self) -> Numbered:
        try:
            return 0, await anext(self._chain)
        except StopAsyncIteration:
            raise
        except Exception as exc:  # noqa: BLE001  the reader raises it
            return 0, exc

    async def aclose(self) -> None:
        await self._chain.aclose()


async def _merged(chains: Sequence[Chain]) -> AsyncGenerator[Numbered, None]:
    waiting = {asyncio.ensure_future(anext(chain)): number for number, chain in enumerate(chains)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                number = waiting.pop(task)
                try:
                    event = task.result()
                except Exception as exc:  # noqa: BLE001  the reader raises it
                    yield number, exc
                    continue
                yield number, event
                if not isinstance(event, RefinementResult):
                    waiting[asyncio.ensure_future(anext(chains[number]))] = number
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for chain in chains:
            await chain.aclose()
