"""What docs/api.md says must come of a refinement, given what its models did: from that page, not from the code."""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from slhf_server.errors import (
    BadRequest,
    DeadlineExceeded,
    EngineFailed,
    InternalError,
    RequestError,
    Stopped,
    TokenBudgetExceeded,
)
from slhf_server.refinement.job import Deltas, Endpoint
from tests.server.refinement.erratic import Call

REASON: dict[type[RequestError], str] = {DeadlineExceeded: "deadline", TokenBudgetExceeded: "token_budget"}


@dataclass(frozen=True)
class Wish:
    """What the request asked for."""

    endpoint: Endpoint
    deltas: Deltas
    rounds: int
    draft: str | None
    structured: bool
    fails: bool
    """`on_error` is "fail"."""
    stops_when_unchanged: bool
    max_total_tokens: int
    draft_thinks: bool = False
    """The client's draft comes from a model that thinks."""

    def answers_while_it_runs(self, number: int) -> bool:
        """The last round of a stream cannot be taken back. A structured answer comes whole; and in `/v1/refine` a piece
        belongs to a round, so that only the draft that is all can be the answer."""
        if self.deltas == "none" or number != self.rounds:
            return False
        return number == 0 or (self.endpoint != "refine" and not self.structured)


@dataclass(frozen=True)
class Answer:
    texts: list[str]
    """Of the finished rounds, the draft first; the last one is the answer."""
    finish_reason: str
    stop_reasons: set[str]
    """Those that are true."""


def verdict(wish: Wish, calls: Sequence[Call], deadline: float) -> Answer | RequestError:
    """The answer that is due, or the error. The deadline is on the clock of `Call.at`."""
    texts = [] if wish.draft is None else [wish.draft]
    finish_reason, spent = "stop", 0
    for number, call in enumerate(calls, start=len(texts)):
        text, spent = visible(call), spent + call.tokens
        problem = _problem(wish, call, number, text, spent)
        if problem is not None:
            return _early_end(wish, texts, finish_reason, problem, text if _is_sent(wish, number, text) else None)
        texts.append(text)
        finish_reason = str(call.ended)
    if not texts:
        return DeadlineExceeded("")  # no model was asked
    late = (calls[-1].at if calls else deadline) + 1e-6 >= deadline  # timers fire within the clock's resolution
    return _end(wish, texts, finish_reason, spent, calls, late)


def visible(call: Call) -> str:
    """What a model has said so far, without its thoughts."""
    text, thought = call.said, False
    while (rest := text.lstrip()).startswith("<think>"):
        _, closed, text = rest.partition("</think>")
        thought = True
        if not closed:
            return ""
    if call.ended not in ("stop", "length", "tool_calls") and "<think>".startswith(rest):
        return ""  # nobody knows yet
    return rest if thought else text


def read_by_the_follower(draft: str) -> str:
    """A client's draft without its thoughts; as it is where they are not whole, or are all there is."""
    text = draft
    while (rest := text.lstrip()).startswith("<think>") and "</think>" in rest:
        text = rest.partition("</think>")[2]
    return draft if text is draft or blank(text) else text.lstrip()


def blank(text: str) -> bool:
    """Nothing to see: white space and characters of control and format alone."""
    return all(unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp", "Zs") for letter in text)


def _problem(wish: Wish, call: Call, number: int, text: str, spent: int) -> RequestError | None:
    """Why a round gives no text."""
    if call.ended == "closed":
        return DeadlineExceeded("")
    if isinstance(call.ended, Exception):
        return call.ended if isinstance(call.ended, RequestError) else InternalError("")
    if number == 0:
        return None  # whatever the Leader wrote is what there is
    if call.ended == "length" and spent >= wish.max_total_tokens:
        return TokenBudgetExceeded("")
    if wish.structured and not _is_object(text):
        return Stopped("invalid_structure")
    return EngineFailed("") if blank(text) else None


def _is_sent(wish: Wish, number: int, text: str) -> bool:
    return wish.answers_while_it_runs(number) and not blank(text)


def _early_end(
    wish: Wish, texts: list[str], finish_reason: str, problem: RequestError, sent: str | None
) -> Answer | RequestError:
    limit = isinstance(problem, Stopped)
    if sent is not None:
        return Answer([*texts, sent], "length", {_reason(problem)}) if limit else problem
    if not texts or (wish.fails and not limit):
        return problem
    if isinstance(problem, BadRequest) and len(texts) == 1 and wish.draft is not None:
        return problem
    return Answer(texts, finish_reason, {_reason(problem)})


def _reason(problem: RequestError) -> str:
    if type(problem) is Stopped:
        return problem.message
    return REASON.get(type(problem)) or ("context_length" if problem.code == "context_length_exceeded" else "error")


def _end(
    wish: Wish, texts: list[str], finish_reason: str, spent: int, calls: Sequence[Call], late: bool
) -> Answer | RequestError:
    """No further model was asked: why not."""
    if calls and calls[-1].ended == "tool_calls":
        return Answer(texts, "tool_calls", {"tool_calls"})
    if len(texts) > wish.rounds:
        return Answer(texts, finish_reason, {"rounds_done" if wish.rounds else "disabled"})
    blank_draft = wish.draft is None and len(texts) == 1 and blank(texts[0])
    before = read_by_the_follower(texts[-2]) if len(texts) == 2 and wish.draft_thinks else texts[-2:][0]
    truths = {
        "token_budget": spent >= wish.max_total_tokens,
        "error": blank_draft and not wish.fails,
        "unchanged": wish.stops_when_unchanged and len(texts) > 1 and texts[-1] == before,
        "deadline": late,
    }
    reasons = {reason for reason, holds in truths.items() if holds}
    if blank_draft and wish.fails and not reasons:
        return EngineFailed("")
    return Answer(texts, finish_reason, reasons)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
