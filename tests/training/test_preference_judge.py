"""The judge against a real HTTP server: places cancel out, and a failure never becomes a value."""

import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slhf_training.errors import JudgeError, SettingsError
from slhf_training.preference.judge import EndpointJudge, JudgeSettings, judge_of
from slhf_training.types import Chat, Message
from tests.training.judging import Endpoint, Reply, answers_of, endpoint, letters, written

CHAT: Chat = [Message(role="user", content="Which is best?")]


@contextmanager
def judge(here: Endpoint | str, **settings: Any) -> Iterator[EndpointJudge]:
    url = here if isinstance(here, str) else here.url
    made = judge_of(JudgeSettings(**{"kind": "judge", "url": url, "model": "m", "backoff_s": 0} | settings))
    try:
        yield made
    finally:
        made.close()


def biased(request: Any) -> Reply:
    """Odds of A over B: 3 for the place, and 2 for the better answer."""
    odds = 3 * (2 if answers_of(request)[0] == "good" else 1 / 2)
    return letters(A=odds / (1 + odds), B=1 / (1 + odds))


def test_both_orders_cancel_what_a_place_gets() -> None:
    """good first: 6/7 for A; good second: 3/5 for A (bad), so 2/5 for good; the mean is (6/7 + 2/5) / 2 = 22/35."""
    with endpoint(biased) as here, judge(here) as asked:
        p = asked([CHAT, CHAT], ["good", "bad"], ["bad", "good"])
    assert p == pytest.approx([22 / 35, 13 / 35])


def test_a_judge_that_sees_places_alone_finds_a_tie() -> None:
    with endpoint(lambda request: letters(A=0.8, B=0.1)) as here, judge(here) as asked:
        assert asked([CHAT], ["x"], ["y"]) == pytest.approx([0.5])


def test_the_request_asks_for_one_token_with_log_probs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    with endpoint(biased) as here, judge(here, api_key_variable="JUDGE_KEY", top_logprobs=5) as asked:
        asked([CHAT], ["good {b}"], ["bad"])
    request = here.asked[0]
    assert {key: request[key] for key in request if key != "messages"} == {
        "model": "m",
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 5,
    }
    assert "user: Which is best?" in request["messages"][0]["content"]
    assert sorted(answers_of(request)) == ["bad", "good {b}"]  # an answer's own braces are left alone
    assert (here.headers[0]["path"], here.headers[0]["authorization"]) == ("/v1/chat/completions", "Bearer s3cret")


def test_all_spellings_of_a_letter_count() -> None:
    """A: 0.3 + 0.1, B: 0.4, and 0.2 for something else: 1/2 in this order, and so in the other."""
    found = [{"A": 0.3, " a": 0.1, "B": 0.4, "The": 0.2}]
    with endpoint(lambda request: letters(**found[0])) as here, judge(here) as asked:
        assert asked([CHAT], ["x"], ["y"]) == pytest.approx([0.5])
    with endpoint(lambda request: letters(A=0.9, C=0.1) if answers_of(request)[0] == "x" else letters(B=1.0)) as here:
        with judge(here) as asked:
            assert asked([CHAT], ["x"], ["y"]) == pytest.approx([1.0])  # a letter that is not there counts as 0


@pytest.mark.parametrize(
    "tokens",
    [
        ["[[", {"A": 0.6, "B": 0.2, "C": 0.1}, "]]"],
        [{"[[A": 0.6, "[[B": 0.2}, "]]"],
        ["Answer", " ", {"**A": 0.6, " B": 0.2}, "** is better than B"],
    ],
)
def test_a_critic_that_writes_more_than_a_letter_is_read_where_it_writes_it(tokens: list[Any]) -> None:
    """A has .6 and B .2, which is 3/4, wherever the letter stands; in the other order the letters change places."""

    def critic(request: Any) -> Reply:
        if answers_of(request)[0] == "good":
            return written(*tokens)
        swapped = {"A": "B", "B": "A"}
        turned = [t if isinstance(t, str) else {_turned(k, swapped): p for k, p in t.items()} for t in tokens]
        return written(*turned)

    with endpoint(critic) as here, judge(here, answer_tokens=4) as asked:
        assert asked([CHAT], ["good"], ["bad"]) == pytest.approx([3 / 4])
        assert {request["max_tokens"] for request in here.asked} == {4}


def _turned(token: str, swapped: dict[str, str]) -> str:
    return "".join(swapped.get(letter, letter) for letter in token)


@pytest.mark.parametrize(
    ("tokens", "answer_tokens", "reason"),
    [
        (["[["], 1, r"a token's 1 alternatives; answer_tokens reads later ones"),
        (["I", " cannot", " say"], 3, r"neither A nor B among the 3 tokens of 'I cannot say'"),
        ([], 3, r"neither A nor B among the 0 tokens"),
    ],
)
def test_a_critic_whose_letter_is_not_found_fails_and_says_what_may_help(
    tokens: list[Any], answer_tokens: int, reason: str
) -> None:
    with endpoint(lambda request: written(*tokens)) as here, judge(here, answer_tokens=answer_tokens) as asked:
        with pytest.raises(JudgeError, match=reason):
            asked([CHAT], ["x"], ["y"])


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_passing_failure_is_tried_again(status: int) -> None:
    replies: Iterator[Reply] = iter([(status, {}), (status, {})])
    with endpoint(lambda request: next(replies, letters(A=0.5, B=0.5))) as here, judge(here, retries=2) as asked:
        assert asked([CHAT], ["x"], ["y"]) == pytest.approx([0.5])
        assert (len(here.asked), asked.failures) == (4, 0)


@pytest.mark.parametrize(
    "reply",
    [
        (401, {"error": {"message": "no"}}),
        (200, b"<html>"),
        (200, {"choices": []}),
        (200, {"choices": [{"logprobs": None}]}),
        letters(Yes=0.9, No=0.1),
    ],
)
def test_a_pair_without_an_answer_is_not_a_number_and_counted(reply: Reply) -> None:
    """The second pair fails in one of its orders; it is not asked again."""

    def answer(request: Any) -> Reply:
        return reply if answers_of(request) == ("odd", "y") else letters(A=0.5, B=0.5)

    with endpoint(answer) as here, judge(here, most_failures=0.5) as asked:
        p = asked([CHAT, CHAT], ["x", "odd"], ["y", "y"])
        assert p[0] == 0.5
        assert math.isnan(p[1])
        assert (asked.failures, len(here.asked)) == (1, 4)


def test_too_many_failures_stop_the_run() -> None:
    def answer(request: Any) -> Reply:
        return (500, {}) if "odd" in answers_of(request) else letters(A=0.5, B=0.5)

    with endpoint(answer) as here, judge(here, most_failures=0.3, retries=1) as asked:
        assert np.isnan(asked([CHAT] * 4, ["odd", "b", "c", "d"], ["y"] * 4)).sum() == 1
        with pytest.raises(JudgeError, match=r"judge m: 2 of 4 pairs failed; the last: HTTP 500"):
            asked([CHAT] * 4, ["odd", "b", "c", "odd"], ["y", "y", "y", "z"])


def test_nobody_listening_is_a_failure() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with judge(f"http://127.0.0.1:{unused.getsockname()[1]}/v1", retries=1) as asked:
            with pytest.raises(JudgeError, match="1 of 1 pairs failed; the last: ConnectError"):
                asked([CHAT], ["x"], ["y"])


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    """Also by a later process, and for the same pair in the other order: its two questions are the same."""
    cache = tmp_path / "cache" / "judge.sqlite"
    with endpoint(biased) as here:
        with judge(here, cache=cache) as asked:
            first = asked([CHAT], ["good"], ["bad"])
            assert len(here.asked) == 2
        with judge(here, cache=cache) as asked:
            swapped = asked([CHAT, CHAT], ["bad", "good"], ["good", "bad"])
            assert len(here.asked) == 2
            assert swapped == pytest.approx([1 - first[0], first[0]])
            asked([CHAT], ["good"], ["worse"])
            assert len(here.asked) == 4
        with judge(here, cache=cache, model="other") as asked:
            asked([CHAT], ["good"], ["bad"])
            assert len(here.asked) == 6


def test_a_failure_is_not_remembered(tmp_path: Path) -> None:
    replies: Iterator[Reply] = iter([(400, {}), (400, {})])
    with endpoint(lambda request: next(replies, letters(A=0.5, B=0.5))) as here:
        with judge(here, cache=tmp_path / "c", most_failures=1) as asked:
            assert math.isnan(asked([CHAT], ["x"], ["y"])[0])
            assert asked([CHAT], ["x"], ["y"])[0] == 0.5


def test_settings_that_cannot_be_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(SettingsError, match="api_key_variable: NO_SUCH_KEY is not set"):
        judge_of(JudgeSettings(kind="judge", url="http://127.0.0.1/v1", model="m", api_key_variable="NO_SUCH_KEY"))
    (tmp_path / "cache").write_text("no database, but a text that is long enough to be none " * 20)
    with pytest.raises(SettingsError, match="cache: "):
        judge_of(JudgeSettings(kind="judge", url="http://127.0.0.1/v1", model="m", cache=tmp_path / "cache"))


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"JUDGE_KEY": "“sk-canary”"}, "api_key_variable: JUDGE_KEY: a key consists of visible ASCII"),
        ({"JUDGE_KEY": "sk-canary\nx"}, "api_key_variable: JUDGE_KEY: a key consists of visible ASCII"),
        ({"JUDGE_KEY": " "}, "api_key_variable: JUDGE_KEY is not set"),
        (
            {"JUDGE_KEY": "k", "HTTP_PROXY": "socks://u:canary@h", "NO_PROXY": ""},
            "url: HTTP_PROXY: a proxy's address begins",
        ),
    ],
)
def test_what_the_environment_holds_is_named_and_never_quoted(
    environment: dict[str, str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.delenv(name.lower(), raising=False)
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as raised:
        judge_of(JudgeSettings(kind="judge", url="http://far/v1", model="m", api_key_variable="JUDGE_KEY"))
    assert str(raised.value).startswith(problem)
    assert "canary" not in str(raised.value)


def test_white_space_around_a_key_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "s3cret\r\n")
    with endpoint(biased) as here, judge(here, api_key_variable="JUDGE_KEY") as asked:
        asked([CHAT], ["good"], ["bad"])
    assert {headers["authorization"] for headers in here.headers} == {"Bearer s3cret"}
