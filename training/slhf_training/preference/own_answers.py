"""Answers that a model behind any OpenAI-compatible endpoint writes itself, without either text: a count is the judge.

Where two texts state different results, the one that more of these answers give is the better one; elsewhere the source
abstains (slhf/readings.py, where a program reads and counts; the server's judge `own_answers` is the same). It is
self-consistency (Wang et al., ICLR 2023). The answers to a chat are asked for once, whatever is compared.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import httpx2
import numpy as np
from pydantic import Field

from slhf.readings import better_by, different_results, has_readings
from slhf_training.config import authorization, client_of
from slhf_training.errors import JudgeError
from slhf_training.preference import EndpointSettings, Preference
from slhf_training.preference.judge import Failed, answered
from slhf_training.types import Chat, ChatKey, Probabilities, chat_key


class OwnAnswersSettings(EndpointSettings):
    kind: Literal["own-answers"]
    model: str
    count: int = Field(default=8, ge=2)
    """Answers to each chat, as one request's `n`."""
    temperature: float = Field(default=0.5, gt=0)
    max_tokens: int = Field(default=384, gt=0)
    """Of each; one that is longer does not count."""
    extra_body: dict[str, Any] = {}
    """Of each request, such as `{refine: {rounds: 0}}` for a server of this project, whose answers are refined else."""
    timeout_s: float = Field(default=600, gt=0)
    concurrency: int = Field(default=4, gt=0)
    """Requests under way at once."""

    def source(self) -> Preference:
        return own_answers_of(self)


class OwnAnswers:
    """`failures` counts pairs that came back NaN because a request failed; `tokens`, what all answers have cost."""

    def __init__(self, settings: OwnAnswersSettings, client: httpx2.Client) -> None:
        self._settings, self._client = settings, client
        self._written: dict[ChatKey, list[str]] = {}
        self._reason = ""  # of the latest failure
        self.failures = 0
        self.tokens = 0

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        pairs = list(zip(map(chat_key, chats), first, second, strict=True))
        differ = [different_results(old, new) is not None for _, new, old in pairs]
        self._write({key: chat for (key, _, _), chat, asked in zip(pairs, chats, differ, strict=True) if asked})
        failed = sum(asked and key not in self._written for (key, _, _), asked in zip(pairs, differ, strict=True))
        self.failures += failed
        if failed > self._settings.most_failures * len(pairs):
            raise JudgeError(f"{self._settings.url}: {failed} of {len(pairs)} pairs failed; the last: {self._reason}")
        p = [better_by(self._written.get(key, []), old, new) for key, new, old in pairs]
        return np.array([np.nan if one is None else one for one in p], dtype=np.float64)

    def close(self) -> None:
        self._client.close()

    def _write(self, chats: dict[ChatKey, Chat]) -> None:
        unknown = {key: chat for key, chat in chats.items() if key not in self._written}
        with ThreadPoolExecutor(self._settings.concurrency) as pool:
            asked = {key: pool.submit(self._ask, chat) for key, chat in unknown.items()}
        for key, future in asked.items():
            try:
                self._written[key], tokens = future.result()
            except Failed as exc:
                self._reason = str(exc)
            else:
                self.tokens += tokens

    def _ask(self, chat: Chat) -> tuple[list[str], int]:
        """The answers that count, and the tokens of all. Raises Failed."""
        how = self._settings
        request = {
            "model": how.model,
            "messages": chat,
            "n": how.count,
            "temperature": how.temperature,
            "max_tokens": how.max_tokens,
            "seed": 0,
            **how.extra_body,
        }
        answer = answered(self._client, "chat/completions", request, how.retries, how.backoff_s)
        try:
            said = answer.json()
            texts = [(one["finish_reason"], one["message"]["content"] or "") for one in said["choices"]]
            tokens = int((said.get("usage") or {}).get("completion_tokens", 0))
        except (ValueError, LookupError, TypeError, AttributeError) as exc:
            raise Failed(f"the answer holds no texts ({type(exc).__name__} {exc})") from exc
        return [text for end, text in texts if end == "stop" and not has_readings(text)], tokens


def own_answers_of(settings: OwnAnswersSettings) -> OwnAnswers:
    """The source. Raises SettingsError for a missing key, a proxy or an address that cannot be used."""
    headers = authorization(settings.api_key_variable, "api_key_variable")
    return OwnAnswers(settings, client_of(settings.url.rstrip("/") + "/", "url", headers, settings.timeout_s))
