"""Several servers of one remote engine: the least loaded is asked, and a refinement stays where it began."""

from collections import OrderedDict
from collections.abc import Collection, Sequence

from slhf_server.models.upstream.attempts import Endpoint
from slhf_server.models.upstream.failures import Failure

_REMEMBERED = 8192
"""Refinements whose server is known. One that is forgotten may move, which costs it a prefix cache."""


class Replicas:
    """Where requests go. A server is asked once it has answered, and not while its breaker leaves it alone."""

    def __init__(self, endpoints: Sequence[Endpoint], max_retries: int) -> None:
        self.endpoints = endpoints
        self._max_retries = max_retries
        self._homes: OrderedDict[str, Endpoint] = OrderedDict()

    def choose(self, refinement: str, failed: Collection[Endpoint]) -> Endpoint:
        """The server for a round. `failed` are those that this round has tried in vain.

        At least one has answered.
        """
        answered = [endpoint for endpoint in self.endpoints if endpoint.answered]
        usable = self._usable(failed) or answered
        home = self._homes.get(refinement)
        chosen = home if home in usable else min(usable, key=lambda endpoint: endpoint.load)
        self._homes[refinement] = chosen
        self._homes.move_to_end(refinement)
        if len(self._homes) > _REMEMBERED:
            self._homes.popitem(last=False)
        return chosen

    def pause(self, failure: Failure, endpoint: Endpoint, failed: Collection[Endpoint], attempt: int) -> float | None:
        """Seconds until the next attempt: none where another server is at hand. None: there is no next one."""
        elsewhere = failure.retryable or failure.kind == "breaker_open"
        if elsewhere and attempt < self._max_retries and self._usable(failed):
            return 0.0
        return endpoint.pause(failure, attempt)

    def _usable(self, failed: Collection[Endpoint]) -> list[Endpoint]:
        return [one for one in self.endpoints if one.answered and not one.left_alone and one not in failed]
