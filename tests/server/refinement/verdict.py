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
from tests.server.refinement.erratic import Call, Opinion

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
    selects: bool = False
    """The answer is the best text by a judge."""
    no_gain: bool = False
    sure: float | None = None
    """`judge_sure`, with its threshold."""
    question: str = "what is it"
    """What the judge is shown beside the texts."""

    def answers_while_it_runs(self, number: int) -> bool:
        """The last round of a stream cannot be taken back. A structured answer comes whole; and in `/v1/refine` a piece
        belongs to a round, so that only the draft that is all can be the answer."""
        if self.deltas == "none" or number != self.rounds:
            return False
        return number == 0 or (self.endpoint != "refine" and not self.structured and not self.selects)


@dataclass(frozen=True)
class Answer:
    texts: list[str]
    """Of the finished rounds, the draft first."""
    finish_reasons: list[str]
    """Theirs."""
    stop_reasons: set[str]
    """Those that are true."""
    best: int
    """The number of the text that is the answer."""


@dataclass
class _Bench:
    """What the judge has to be asked, and what follows from what it says."""

    wish: Wish
    opinions: list[Opinion]
    best: int = 0
    known: bool = False
    """Whether it is known how the latest text compares with the best before it."""
    p: float | None = None
    late: bool = False
    """Whether the deadline has passed while it was asked."""
    at: float = 0.0

    def hear(self, texts: Sequence[str], left: int) -> int:
        """The tokens of the verdict on the latest text, if one is due."""
        wish, number = self.wish, len(texts) - 1
        known_before, self.known, self.p = self.known, False, None
        judges = wish.selects or wish.sure is not None
        if number == 0 or not judges or (number == wish.rounds and not wish.selects):
            return 0
        old, new = texts[self.best], texts[-1]
        if self.best == 0 and wish.draft_thinks:
            old = read_by_the_follower(old)
        if old == new or (known_before and new == texts[-2]):
            self.known = True  # and what is known of a text holds for the same text
            return 0
        if self.best == 0 and wish.structured and not _is_object(old):
            self.best, self.known = number, True
            return 0
        if 2 * len(wish.question + old + new) // 4 >= left:
            return 0
        opinion = self.opinions.pop(0)
        assert (opinion.old, opinion.new) == (old, new)
        self.late, self.at = opinion.said == "closed", opinion.at
        if not isinstance(opinion.said, str):
            self.known, self.p = True, opinion.said
            self.best = number if opinion.said is not None and opinion.said >= 0.6 else self.best
        return opinion.tokens

    def answer(self, texts: Sequence[str]) -> int:
        return self.best if self.wish.selects else len(texts) - 1


def verdict(
    wish: Wish, calls: Sequence[Call], deadline: float, opinions: Sequence[Opinion] = ()
) -> Answer | RequestError:
    """The answer that is due, or the error. The deadline is on the clock of `Call.at`."""
    texts = [] if wish.draft is None else [wish.draft]
    reasons, spent, bench = ["stop"] * len(texts), 0, _Bench(wish, [*opinions])
    for number, call in enumerate(calls, start=len(texts)):
        text, spent = visible(call), spent + call.tokens
        problem = _problem(wish, call, number, text, spent)
        if problem is not None:
            sent = text if _is_sent(wish, number, text) else None
            return _early_end(wish, texts, reasons, bench, problem, sent)
        texts.append(text)
        reasons.append(str(call.ended))
        if call.ended != "tool_calls":
            spent += bench.hear(texts, wish.max_total_tokens - spent)
        if bench.late:
            return _early_end(wish, texts, reasons, bench, DeadlineExceeded(""), None)
    assert not bench.opinions, "the judge was asked too often"
    if not texts:
        return DeadlineExceeded("")  # no model was asked
    latest = max(calls[-1].at, bench.at) if calls else deadline
    return _end(wish, texts, reasons, spent, calls, bench, latest + 1e-6 >= deadline)  # timers fire that early


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
    wish: Wish, texts: list[str], reasons: list[str], bench: _Bench, problem: RequestError, sent: str | None
) -> Answer | RequestError:
    limit = isinstance(problem, Stopped)
    if sent is not None:
        return Answer([*texts, sent], [*reasons, "length"], {_reason(problem)}, len(texts)) if limit else problem
    if not texts or (wish.fails and not limit):
        return problem
    if isinstance(problem, BadRequest) and len(texts) == 1 and wish.draft is not None:
        return problem
    return Answer(texts, reasons, {_reason(problem)}, bench.answer(texts))


def _reason(problem: RequestError) -> str:
    if type(problem) is Stopped:
        return problem.message
    return REASON.get(type(problem)) or ("context_length" if problem.code == "context_length_exceeded" else "error")


def _end(
    wish: Wish,
    texts: list[str],
    reasons: list[str],
    spent: int,
    calls: Sequence[Call],
    bench: _Bench,
    late: bool,
) -> Answer | RequestError:
    """No further model was asked: why not."""
    number, best = len(texts) - 1, bench.answer(texts)
    if calls and calls[-1].ended == "tool_calls":
        return Answer(texts, reasons, {"tool_calls"}, best)
    no_gain = wish.no_gain and bench.known and best != number
    if no_gain or number == wish.rounds:
        done = "no_gain" if no_gain else "rounds_done" if wish.rounds else "disabled"
        others = {"unchanged"} if no_gain and number < wish.rounds and _is_unchanged(wish, texts) else set()
        return Answer(texts, reasons, {done, *others}, best)
    blank_draft = wish.draft is None and len(texts) == 1 and blank(texts[0])
    truths = {
        "token_budget": spent >= wish.max_total_tokens,
        "error": blank_draft and not wish.fails,
        "unchanged": _is_unchanged(wish, texts),
        "judge_sure": wish.sure is not None and bench.p is not None and bench.p >= wish.sure,
        "deadline": late,
    }
    found = {reason for reason, holds in truths.items() if holds}
    if blank_draft and wish.fails and not found:
        return EngineFailed("")
    return Answer(texts, reasons, found, best)


def _is_unchanged(wish: Wish, texts: Sequence[str]) -> bool:
    before = read_by_the_follower(texts[-2]) if len(texts) == 2 and wish.draft_thinks else texts[-2:][0]
    return wish.stops_when_unchanged and len(texts) > 1 and texts[-1] == before


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
