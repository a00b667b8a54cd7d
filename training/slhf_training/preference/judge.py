"""A language model as judge, behind any OpenAI-compatible endpoint; source (b) of SLHF (arXiv 2512.16626).

The judge is asked which of two answers, A or B, is better, and p comes from the log-probs of the two letters. It is
asked in both orders. A critic that was trained to write more than the letter ("[[A]]", or a sentence before it) may
write `answer_tokens`, and the letter is read where it wrote it. A question that fails has no value: its pair is NaN and
counted, never 0.5.
"""

import math
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Literal

import httpx2
import numpy as np
from pydantic import Field

from slhf_training.config import RelativePath, authorization, client_of
from slhf_training.errors import JudgeError
from slhf_training.preference import Cache, EndpointSettings, Preference, both_orders
from slhf_training.types import Chat, Probabilities, as_text, digest

PROMPT = """Here is a conversation and two answers to its last turn.

[Conversation]
{chat}

[Answer A]
{a}

[Answer B]
{b}

Which answer is better: more helpful, correct and honest? Do not favour an answer for its length or its place.
Reply with one letter, A or B."""


class JudgeSettings(EndpointSettings):
    kind: Literal["judge"]
    model: str
    prompt: str = PROMPT
    """The judge's prompt, with {chat}, {a} and {b}."""
    top_logprobs: int = Field(default=20, ge=2)
    answer_tokens: int = Field(default=1, gt=0)
    """How many tokens the judge may write. 1: its first one is the letter. More: the first that spells one is, with or
    without brackets; Skywork-Critic's "[[A]]" needs 4."""
    concurrency: int = Field(default=16, gt=0)
    """Questions under way at once."""
    cache: RelativePath | None = None
    """A file of judgements that outlives the run; None: kept in memory."""

    def source(self) -> Preference:
        return judge_of(self)


class Failed(Exception):
    """This question has no answer; the message says why."""


class EndpointJudge:
    """`asked` counts requests, `failures` counts pairs that came back NaN."""

    def __init__(self, settings: JudgeSettings, client: httpx2.Client, cache: Cache) -> None:
        self._settings, self._client, self._cache = settings, client, cache
        self._reason = ""  # of the latest failure
        self.asked = 0
        self.failures = 0

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        p = both_orders(self._one_order)(chats, first, second)
        failed = int(np.isnan(p).sum())
        self.failures += failed
        if failed > self._settings.most_failures * len(p):
            raise JudgeError(
                f"judge {self._settings.model}: {failed} of {len(p)} pairs failed; the last: {self._reason}"
            )
        return p

    def close(self) -> None:
        self._client.close()
        self._cache.close()

    def _one_order(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        requests = [self._request(chat, a, b) for chat, a, b in zip(chats, first, second, strict=True)]
        keys = [digest([self._settings.url, request]) for request in requests]
        known = {key: self._cache.get(key) for key in keys}
        unknown = {key: request for key, request in zip(keys, requests, strict=True) if known[key] is None}
        known.update(self._ask_all(unknown))
        return np.array([math.nan if (p := known[key]) is None else p for key in keys])

    def _ask_all(self, requests: Mapping[str, Any]) -> dict[str, float]:
        answers = {}
        with ThreadPoolExecutor(self._settings.concurrency) as pool:
            asked = {pool.submit(self._ask, request): key for key, request in requests.items()}
            for future in as_completed(asked):
                try:
                    answers[asked[future]] = future.result()
                except Failed as exc:
                    self._reason = str(exc)
                    continue
                self._cache.put(asked[future], answers[asked[future]])
        self.asked += len(requests)
        return answers

    def _ask(self, request: Any) -> float:
        how = self._settings
        answer = answered(self._client, "chat/completions", request, how.retries, how.backoff_s)
        return probability_of_a(answer, how.answer_tokens)

    def _request(self, chat: Chat, a: str, b: str) -> Any:
        slots = {"{chat}": as_text(chat), "{a}": a, "{b}": b}
        return {
            "model": self._settings.model,
            "messages": [{"role": "user", "content": _filled(self._settings.prompt, slots)}],
            "max_tokens": self._settings.answer_tokens,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": self._settings.top_logprobs,
        }


def answered(client: httpx2.Client, path: str, request: Any, retries: int, backoff_s: float) -> httpx2.Response:
    """The answer, of status 200, after as many tries as it takes. Raises Failed, which says why there is none."""
    reason = ""
    for attempt in range(retries + 1):
        if attempt:
            time.sleep(backoff_s * 2 ** (attempt - 1))
        try:
            answer = client.post(path, json=request)
        except httpx2.RequestError as exc:
            reason = f"{type(exc).__name__} {exc}"
            continue
        if answer.status_code == 200:
            return answer
        reason = f"HTTP {answer.status_code}"
        if answer.status_code not in (408, 409, 429) and answer.status_code < 500:
            break
    raise Failed(reason)


def probability_of_a(answer: httpx2.Response, tokens: int = 1) -> float:
    """P(A) / (P(A) + P(B)) at the letter, each letter with all its spellings (" A", "a", "[[A").

    The letter is the first token, or, where the judge writes several, the first one that spells A or B. A letter that
    is not among the alternatives counts as 0: less than the least of them. Raises Failed where there are no log-probs,
    or none of the two letters among them.
    """
    try:
        written = answer.json()["choices"][0]["logprobs"]["content"][:tokens]
        letter = (
            written[0] if tokens == 1 else next((one for one in written if _spelt(one["token"]) in ("A", "B")), None)
        )
        if letter is None:
            text = "".join(one["token"] for one in written)
            raise Failed(f"neither A nor B among the {len(written)} tokens of {text!r}; answer_tokens allows more")
        found = [(_spelt(one["token"]), math.exp(float(one["logprob"]))) for one in letter["top_logprobs"]]
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as exc:
        raise Failed(f"the answer holds no log-probs ({type(exc).__name__} {exc})") from exc
    a, b = (sum(p for token, p in found if token == letter) for letter in "AB")
    if not 0 < a + b < math.inf:
        raise Failed(f"neither A nor B among a token's {len(found)} alternatives; answer_tokens reads later ones")
    return a / (a + b)


def _spelt(token: str) -> str:
    """What a token says without its brackets."""
    return token.strip(" \n\t[]*\"'").upper()


def judge_of(settings: JudgeSettings) -> EndpointJudge:
    """Make the source.

    Raises SettingsError for a missing key, a proxy or an address that cannot be used, or a bad cache.
    """
    headers = authorization(settings.api_key_variable, "api_key_variable")
    client = client_of(settings.url.rstrip("/") + "/", "url", headers, settings.timeout_s)
    return EndpointJudge(settings, client, Cache(settings.cache))


def _filled(prompt: str, slots: Mapping[str, str]) -> str:
    """The prompt with its slots filled in one pass, so that an answer that itself holds "{b}" is left as it is."""
    pattern = re.compile("|".join(map(re.escape, slots)))
    return pattern.sub(lambda slot: slots[slot.group()], prompt)
