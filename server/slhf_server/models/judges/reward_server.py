"""A reward model behind HTTP as a judge. It sees one answer at a time, and so no order.

    POST base_url    {"conversations": [[..., {"role": "assistant", "content": "..."}], ...]}
    200              {"rewards": [1.5, null]}     one for each conversation; null abstains

It is what training's preference `remote-reward` asks (slhf_training/preference/remote.py):
p = sigmoid((r(new) - r(old)) / scale).
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from slhf_server.models.base import Turn
from slhf_server.models.judge import Verdict
from slhf_server.models.upstream.answer import UnusableAnswer
from slhf_server.models.upstream.attempts import Endpoint, Patience, encoded, json_values, status_error
from slhf_server.models.upstream.connection import connect
from slhf_server.models.upstream.counters import UpstreamMetrics
from slhf_server.models.upstream.dialect import Request
from slhf_server.models.upstream.failures import Failure, failure
from slhf_server.settings.judging import RewardSettings

_MOST = 1e100
"""No reward is as large, and its difference from another one is a number."""


class RewardServer:
    """Implements `Judge`."""

    def __init__(
        self, name: str, settings: RewardSettings, metrics: UpstreamMetrics, patience: Patience | None = None
    ) -> None:
        """Raises SettingsError."""
        self.name = name
        self._url = str(settings.base_url)
        self._scale = settings.scale
        client = connect(f"judges.{name}.reward", self._url, settings)
        self._endpoint = Endpoint("judge", name, settings, client, metrics, patience or Patience())

    async def compare(
        self, turns: Sequence[Turn], old: str, new: str, *, request_id: str, priority: int = 0
    ) -> Verdict:
        chat = [{"role": turn.role, "content": turn.text} for turn in turns]
        body = {"conversations": [[*chat, {"role": "assistant", "content": text}] for text in (old, new)]}
        before, after = await self._rewards(body)
        return Verdict(None if before is None or after is None else _sigmoid((after - before) / self._scale))

    def tokens(self, turns: Sequence[Turn], old: str, new: str) -> int:
        return 0  # it tells none

    async def close(self) -> None:
        await self._endpoint.close()

    async def _rewards(self, body: Mapping[str, Any]) -> list[float | None]:
        attempt = 0
        while True:
            try:
                async with self._endpoint.place():
                    return await self._attempt(body)
            except Failure as failed:
                pause = self._endpoint.pause(failed, attempt)
                if pause is None:
                    raise failed.error from failed.__cause__
            attempt += 1
            await self._endpoint.rest(pause)

    async def _attempt(self, body: Mapping[str, Any]) -> list[float | None]:
        """Ask once. Raises Failure."""
        content = encoded(body)
        translate = partial(_failure, self._endpoint.who, body)
        with self._endpoint.attempt(translate) as progress:
            async with self._endpoint.client.stream("POST", self._url, content=content) as response:
                if not response.is_success:
                    raise await status_error(response)
                progress.begun = True
                async with aclosing(json_values(response, progress)) as pieces:
                    values = [value async for some in pieces for value in some]
            return _read(values)


def _failure(who: str, body: Mapping[str, Any], exc: Exception, begun: bool) -> Failure:
    return failure(who, exc, Request(body, frozenset(body), limit=""), (), begun=begun)


def _read(values: Sequence[object]) -> list[float | None]:
    """Two rewards. Raises UnusableAnswer."""
    match values:
        case [{"rewards": [before, after]}] if _is_reward(before) and _is_reward(after):
            return [before, after]
    raise UnusableAnswer("no two rewards")


def _is_reward(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST
    return value is None or number


def _sigmoid(difference: float) -> float:
    return 0.5 * (1 + math.tanh(difference / 2))  # which overflows nowhere
