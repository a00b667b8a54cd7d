"""What is sent again, and when; every test runs for `Client` and for `AsyncClient`."""

import datetime
from email.utils import format_datetime

import httpx2
import pytest

from slhf import (
    APIError,
    BadRequest,
    DeadlineExceeded,
    RateLimited,
    TransportError,
    TransportTimeout,
)
from slhf._exchange import LONGEST_RETRY_AFTER
from slhf.retry import FIRST_BACKOFF, LONGEST_BACKOFF
from tests.clients.caller import Caller, Handler, bad, broken, good, in_turn


@pytest.mark.parametrize(
    "failure",
    [broken(httpx2.ConnectError), broken(httpx2.ConnectTimeout), bad(429), bad(503, "engine_unavailable")],
)
def test_what_the_server_did_not_work_on_is_sent_again(caller: Caller, failure: Handler) -> None:
    sent = in_turn(caller, failure, failure, good)
    assert caller.refine("why?", rounds=0).output == "why?"
    assert len({request.content for request in sent}) == 1
    assert len(caller.waits) == 2
    assert all(0 <= wait <= LONGEST_BACKOFF for wait in caller.waits)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (broken(httpx2.ReadTimeout), TransportTimeout),
        (broken(httpx2.WriteTimeout), TransportTimeout),
        (broken(httpx2.ReadError), TransportError),
        (broken(httpx2.RemoteProtocolError), TransportError),
        (bad(400), BadRequest),
        (bad(500), APIError),
        (bad(502), APIError),
        (bad(504), DeadlineExceeded),
    ],
)
def test_what_the_server_may_have_worked_on_is_not_sent_again(
    caller: Caller, failure: Handler, expected: type[Exception]
) -> None:
    sent = in_turn(caller, failure)
    with pytest.raises(expected):
        caller.refine("why?")
    assert len(sent) == 1


def test_after_the_last_attempt_the_last_error_is_raised(caller: Caller) -> None:
    caller.settings["max_retries"] = 1
    sent = in_turn(caller, broken(httpx2.ConnectError), bad(429))
    with pytest.raises(RateLimited):
        caller.refine("why?")
    assert len(sent) == 2


@pytest.mark.parametrize(
    ("asked", "waited"), [("3", 3.0), ("0", 0.0), ("1.5", 1.5), ("99999", LONGEST_RETRY_AFTER), ("0003", 3.0)]
)
def test_retry_after_is_honoured_up_to_a_limit(caller: Caller, asked: str, waited: float) -> None:
    in_turn(caller, bad(429, **{"Retry-After": asked}), good)
    caller.refine("why?")
    assert waited <= sum(caller.waits) <= waited + FIRST_BACKOFF


def test_those_who_met_one_429_do_not_come_back_in_step(caller: Caller) -> None:
    for _ in range(16):
        in_turn(caller, bad(429, **{"Retry-After": "1"}), good)
        caller.refine("why?")
    assert len(set(caller.waits)) == 16
    assert max(caller.waits) - min(caller.waits) > FIRST_BACKOFF / 4


def test_retry_after_may_be_a_date(caller: Caller) -> None:
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)
    in_turn(caller, bad(503, **{"Retry-After": format_datetime(soon, usegmt=True)}), good)
    caller.refine("why?")
    assert 0 < caller.waits[0] <= 30 + FIRST_BACKOFF


@pytest.mark.parametrize(
    "nonsense",
    [
        *("", "soon", "-1", "inf", "nan", "9" * 400, "1e3", "3 s"),
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Fri, 31 Feb 2026 00:00:00 GMT",
        "Mon, 01 Jan 0001 00:00:00 +9999",
    ],
)
def test_a_retry_after_that_cannot_be_read_is_as_none(caller: Caller, nonsense: str) -> None:
    caller.settings["max_retries"] = 0
    in_turn(caller, bad(429, **{"Retry-After": nonsense}))
    with pytest.raises(RateLimited) as raised:
        caller.refine("why?")
    assert raised.value.retry_after is None
