"""A reward model behind HTTP: whatever gives a conversation with its answer a number.

    POST url    {"conversations": [[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}], ...]}
    200         {"rewards": [1.5, null, ...]}     one for each conversation; null abstains

p(first beats second) = sigmoid((r(first) - r(second)) / scale). A batch that fails has no value: its pairs are NaN and
counted, never 0.5.
"""

from collections.abc import Sequence
from typing import Literal

import httpx2
import numpy as np
from pydantic import Field

from slhf_training.config import authorization, client_of
from slhf_training.errors import JudgeError
from slhf_training.preference import EndpointSettings, Preference
from slhf_training.preference.judge import Failed, answered
from slhf_training.types import Chat, Probabilities, chat_key, sigmoid


class RemoteRewardSettings(EndpointSettings):
    kind: Literal["remote-reward"]
    url: str = Field(pattern=r"^https?://")
    """Where it is asked, as a whole."""
    scale: float = Field(default=1.0, gt=0)
    """A difference of rewards of this size gives p = 0.73."""
    batch_size: int = Field(default=32, gt=0)
    """Conversations of a request."""
    timeout_s: float = Field(default=120, gt=0)

    def source(self) -> Preference:
        return remote_reward_of(self)


class RemoteReward:
    """`failures` counts pairs that came back NaN because a request failed."""

    def __init__(self, settings: RemoteRewardSettings, client: httpx2.Client) -> None:
        self._settings, self._client = settings, client
        self._reason = ""  # of the latest failure
        self.failures = 0

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        keys = [(chat_key(chat), answer) for chat, answer in zip([*chats, *chats], [*first, *second], strict=True)]
        asked = dict(zip(keys, [*chats, *chats], strict=True))
        rewards = dict(zip(asked, self._rewards([(chat, answer) for (_, answer), chat in asked.items()]), strict=True))
        a, b = keys[: len(chats)], keys[len(chats) :]
        failed = sum(rewards[one] is None or rewards[other] is None for one, other in zip(a, b, strict=True))
        self.failures += failed
        if failed > self._settings.most_failures * len(chats):
            raise JudgeError(f"{self._settings.url}: {failed} of {len(chats)} pairs failed; the last: {self._reason}")
        found = {key: np.nan if reward is None else reward for key, reward in rewards.items()}
        return sigmoid(
            np.array([found[one] - found[other] for one, other in zip(a, b, strict=True)]) / self._settings.scale
        )

    def close(self) -> None:
        self._client.close()

    def _rewards(self, asked: Sequence[tuple[Chat, str]]) -> list[float | None]:
        """None where the request failed, NaN where the model abstains."""
        found: list[float | None] = []
        for start in range(0, len(asked), self._settings.batch_size):
            batch = asked[start : start + self._settings.batch_size]
            try:
                found += self._ask(batch)
            except Failed as exc:
                self._reason = str(exc)
                found += [None] * len(batch)
        return found

    def _ask(self, batch: Sequence[tuple[Chat, str]]) -> list[float]:
        request = {"conversations": [[*chat, {"role": "assistant", "content": answer}] for chat, answer in batch]}
        answer = answered(self._client, self._settings.url, request, self._settings.retries, self._settings.backoff_s)
        try:
            rewards = [np.nan if reward is None else float(reward) for reward in answer.json()["rewards"]]
        except (ValueError, LookupError, TypeError) as exc:
            raise Failed(f"the answer holds no rewards ({type(exc).__name__} {exc})") from exc
        if len(rewards) != len(batch) or np.isinf(rewards).any():
            raise Failed(f"{len(rewards)} rewards for {len(batch)} conversations, all of which have to be finite")
        return rewards


def remote_reward_of(settings: RemoteRewardSettings) -> RemoteReward:
    """The source. Raises SettingsError for a missing key, a proxy or an address that cannot be used."""
    headers = authorization(settings.api_key_variable, "api_key_variable")
    return RemoteReward(settings, client_of(settings.url, "url", headers, settings.timeout_s))
