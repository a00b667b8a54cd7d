"""From a refinement's steps to a stream: early errors keep their HTTP status, silence is filled with pings."""

from collections.abc import AsyncGenerator

from slhf.wire import RoundCompleted, RoundStarted
from slhf_server.api.sse import Paced
from slhf_server.refinement import Step

_SETTLE_S = 0.2  # how long the answer's headers wait for an error that deserves its own HTTP status


async def settle(steps: AsyncGenerator[Step, None]) -> tuple[list[Step], Paced[Step]]:
    """The steps there are at once, and the rest. A refused request raises here, before any byte is sent."""
    paced = Paced(steps)
    first: list[Step] = []
    try:
        while not first or isinstance(first[-1], RoundStarted) or _is_the_clients(first[-1]):
            step = await paced.next_within(_SETTLE_S)
            if step is None:
                break
            first.append(step)
    except BaseException:
        await paced.aclose()
        raise
    return first, paced


def _is_the_clients(step: Step) -> bool:
    """The draft that came with the request: no model has spoken yet."""
    return isinstance(step, RoundCompleted) and step.role == "client"
