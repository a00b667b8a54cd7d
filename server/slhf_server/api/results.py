"""Runs a request's chains to their end, and reports their results as one."""

import json
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from slhf.wire import Refinement, RefinementUsage, StopReason, Usage
from slhf_server.errors import RequestError
from slhf_server.models.reasoning import is_blank
from slhf_server.refinement.loop import RefinementEvent
from slhf_server.refinement.state import RefinementResult

_AS_ASKED: tuple[StopReason, ...] = ("rounds_done", "disabled", "shadowed")


async def collect_results(events: AsyncGenerator[tuple[int, RefinementEvent], None]) -> dict[int, RefinementResult]:
    """The results of the chains that finished, by number. Raises the error of a chain only where none has finished."""
    ended: dict[int, RefinementResult] = {}
    try:
        async with aclosing(events):
            async for number, event in events:
                if isinstance(event, RefinementResult):
                    ended[number] = event
    except RequestError:
        if not ended:
            raise
    return dict(sorted(ended.items()))


def combined(ended: Mapping[int, RefinementResult]) -> RefinementResult:
    """One result that stands for all: tokens are added up, times and rounds are the longest's, and the first early end
    gives the reason."""
    first, *others = ended.values()
    if not others:
        return first
    reports = [result.refinement for result in ended.values()]
    refinement = Refinement(
        applied=any(report.applied for report in reports),
        rounds_requested=first.refinement.rounds_requested,
        rounds_run=max(report.rounds_run for report in reports),
        returned_round=max(report.returned_round for report in reports),
        stop_reason=next((r.stop_reason for r in reports if r.stop_reason not in _AS_ASKED), reports[0].stop_reason),
        draft_source=first.refinement.draft_source,
        profile=first.refinement.profile,
        duration_ms=max(report.duration_ms for report in reports),
        usage=_added(report.usage for report in reports),
    )
    overhead_ms = max(result.overhead_ms for result in ended.values())
    return replace(first, refinement=refinement, usage=refinement.usage.total(), overhead_ms=overhead_ms)


def _added(usages: Iterable[RefinementUsage]) -> RefinementUsage:
    each = list(usages)
    rounds = [sum(column, Usage()) for column in zip_longest(*(one.rounds for one in each), fillvalue=Usage())]
    draft, judge = (sum(column, Usage()) for column in zip(*((one.draft, one.judge) for one in each), strict=True))
    return RefinementUsage(draft=draft, rounds=rounds, judge=judge)


def speaks(result: RefinementResult) -> bool:
    """Whether an answer in parts has one for its text; a turn that calls tools may have none."""
    return not result.tool_calls or not is_blank(result.text)


def json_bytes(answer: dict[str, Any]) -> bytes:
    """The answer as JSON in UTF-8. Half of a surrogate pair, which a text may hold, is escaped as in JSON."""
    return json.dumps(answer, ensure_ascii=False).encode("utf-8", "backslashreplace")
