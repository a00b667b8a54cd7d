"""Own answers as a judge, against a real HTTP server: what is asked for, once for a chat, and what is counted."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from slhf_training.errors import JudgeError, SettingsError
from slhf_training.preference.own_answers import OwnAnswers, OwnAnswersSettings, own_answers_of
from slhf_training.types import Chat, Message
from tests.training.judging import Endpoint, Reply, endpoint

EGGS: Chat = [Message(role="system", content="Be brief."), Message(role="user", content="How many eggs?")]
HENS: Chat = [Message(role="user", content="How many hens?")]


@contextmanager
def judge(here: Endpoint, **settings: Any) -> Iterator[OwnAnswers]:
    asked = {"kind": "own-answers", "url": here.url, "model": "m", "backoff_s": 0, "count": 3}
    made = own_answers_of(OwnAnswersSettings(**(asked | settings)))
    try:
        yield made
    finally:
        made.close()


def said(*texts: str | None, end: str = "stop") -> Reply:
    choices = [{"finish_reason": end, "message": {"content": text}} for text in texts]
    return 200, {"choices": choices, "usage": {"completion_tokens": 10}}


def test_the_result_that_more_own_answers_give_wins() -> None:
    """Two of three say 7: (2 + 1) / (3 + 2)."""
    with endpoint(lambda _: said("7", "6", "It is 7.")) as here, judge(here) as asked:
        p = asked([EGGS, EGGS], ["She has 7.", "She has 6."], ["She has 6.", "She has 7."])
        assert p == pytest.approx([3 / 5, 2 / 5])
        assert (asked.tokens, asked.failures) == (10, 0)


def test_a_chat_is_asked_once_and_only_where_results_differ() -> None:
    with endpoint(lambda request: said(*["6"] * request["n"])) as here, judge(here, extra_body={"refine": 0}) as asked:
        texts = ["She has 7.", "So it is 7.", "She has 8."]
        assert asked([EGGS] * 3, texts, ["So it is 7.", "She has 6.", "She has 6."]) == pytest.approx(
            [np.nan, 1 / 5, 1 / 5], nan_ok=True
        )
        assert np.isnan(asked([HENS], ["7"], ["7."])).all()
        assert asked([EGGS], ["9"], ["6"]) == pytest.approx([1 / 5])
    (request,) = here.asked
    assert request == {
        "model": "m",
        "messages": EGGS,
        "n": 3,
        "temperature": 0.5,
        "max_tokens": 384,
        "seed": 0,
        "refine": 0,
    }
    assert here.headers[0]["path"] == "/v1/chat/completions"


def test_what_came_to_no_end_or_says_nothing_does_not_count() -> None:
    def reply(request: Any) -> Reply:
        cut, (_, whole) = said("7", "7", "7", end="length"), said("6", None, "The draft: 7\n[1] 7")
        return cut if request["messages"] == HENS else (200, whole)

    with endpoint(reply) as here, judge(here) as asked:
        assert asked([EGGS, HENS], ["7", "7"], ["6", "6"]) == pytest.approx([1 / 3, np.nan], nan_ok=True)


@pytest.mark.parametrize("body", [{}, {"choices": [{"message": {}}]}, {"choices": [3]}, [], "x", {"choices": None}])
def test_an_answer_without_texts_is_a_failure_and_no_verdict(body: Any) -> None:
    with endpoint(lambda request: (200, body) if request["messages"] == HENS else said("7")) as here:
        with judge(here, most_failures=0.5) as asked:
            assert asked([EGGS, HENS], ["7", "7"], ["6", "6"]) == pytest.approx([2 / 3, np.nan], nan_ok=True)
            assert asked.failures == 1
        with judge(here) as asked, pytest.raises(JudgeError, match="1 of 2 pairs failed"):
            asked([EGGS, HENS], ["7", "7"], ["6", "6"])


def test_what_fails_is_tried_again_and_at_last_no_verdict() -> None:
    statuses = iter([503, 200, 400])
    with endpoint(lambda _: (status, said("7")[1]) if (status := next(statuses)) else said()) as here:
        with judge(here, most_failures=1) as asked:
            assert asked([EGGS], ["7"], ["6"]) == pytest.approx([2 / 3])
            assert np.isnan(asked([HENS], ["7"], ["6"])).all()
    assert len(here.asked) == 3


def test_a_missing_key_is_named() -> None:
    with pytest.raises(SettingsError, match="NO_SUCH_KEY"):
        own_answers_of(
            OwnAnswersSettings(kind="own-answers", url="http://a", model="m", api_key_variable="NO_SUCH_KEY")
        )
