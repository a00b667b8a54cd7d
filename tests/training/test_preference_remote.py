"""A reward model behind a real HTTP server: its numbers become preferences, and a failure never becomes a value."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from slhf_training.errors import JudgeError, SettingsError
from slhf_training.preference.remote import RemoteReward, RemoteRewardSettings, remote_reward_of
from slhf_training.types import Chat, Message
from tests.training.judging import Endpoint, Reply, endpoint

CHAT: Chat = [Message(role="user", content="Which is best?")]


@contextmanager
def remote(here: Endpoint, **settings: Any) -> Iterator[RemoteReward]:
    made = remote_reward_of(
        RemoteRewardSettings(**{"kind": "remote-reward", "url": here.url, "backoff_s": 0} | settings)
    )
    try:
        yield made
    finally:
        made.close()


def lengths(request: Any) -> Reply:
    """A word is worth 1, and "odd" is not judged."""
    said = [chat[-1]["content"] for chat in request["conversations"]]
    return 200, {"rewards": [None if text == "odd" else len(text.split()) for text in said]}


def test_a_difference_of_rewards_is_a_preference() -> None:
    with endpoint(lengths) as here, remote(here, scale=2.0) as asked:
        p = asked([CHAT] * 3, ["a b c", "a", "odd"], ["a", "a b c", "a"])
        assert p[:2] == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))])
        assert np.isnan(p[2])
        assert asked.failures == 0


def test_each_text_is_asked_once_as_a_conversation_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARD_KEY", "s3cret")
    with endpoint(lengths) as here, remote(here, batch_size=2, api_key_variable="REWARD_KEY") as asked:
        asked([CHAT, CHAT], ["a", "a"], ["b", "c"])
    assert [len(request["conversations"]) for request in here.asked] == [2, 1]
    assert here.asked[0]["conversations"][0] == [*CHAT, {"role": "assistant", "content": "a"}]
    assert {headers["authorization"] for headers in here.headers} == {"Bearer s3cret"}
    assert {headers["path"] for headers in here.headers} == {"/v1"}  # as it was written


def test_a_passing_failure_is_tried_again() -> None:
    replies: Iterator[Reply] = iter([(503, {}), (429, {})])
    with endpoint(lambda request: next(replies, lengths(request))) as here, remote(here, retries=2) as asked:
        assert asked([CHAT], ["a"], ["a"]) == pytest.approx([0.5])
        assert asked.failures == 0


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((401, {}), "HTTP 401"),
        ((200, b"<html>"), "holds no rewards"),
        ((200, {"rewards": [1.0]}), "1 rewards for 2 conversations"),
        ((200, {"rewards": ["good", "bad"]}), "holds no rewards"),
        ((200, b'{"rewards": [1e999, 0]}'), "have to be finite"),
    ],
)
def test_too_many_failures_stop_the_run_and_say_why(reply: Reply, reason: str) -> None:
    with endpoint(lambda request: reply) as here, remote(here, retries=0) as asked:
        with pytest.raises(JudgeError, match=f"1 of 1 pairs failed; the last: .*{reason}"):
            asked([CHAT], ["x"], ["y"])


def test_some_failures_are_not_numbers_and_counted() -> None:
    def answer(request: Any) -> Reply:
        return (500, {}) if any(chat[-1]["content"] == "bad" for chat in request["conversations"]) else lengths(request)

    with endpoint(answer) as here, remote(here, batch_size=1, retries=0, most_failures=0.5) as asked:
        p = asked([CHAT, CHAT], ["a", "bad"], ["a", "a"])
        assert (p[0], asked.failures) == (0.5, 1)
        assert np.isnan(p[1])


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REWARD_KEY", raising=False)
    with pytest.raises(SettingsError, match="api_key_variable: REWARD_KEY is not set"):
        remote_reward_of(
            RemoteRewardSettings(kind="remote-reward", url="http://127.0.0.1:1", api_key_variable="REWARD_KEY")
        )
