"""Requests made from the OpenAPI document, answered by the real engine: no bug, and nothing that is not documented."""

from typing import Any

import pytest
from schemathesis import Case, GenerationMode

from tests.contract.openapi import OPERATIONS, every_answer_is_as_documented
from tests.engine.conftest import LiveServer

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


def briefly(case: Case[Any]) -> None:
    """Few tokens and rounds, whatever else is asked for: this is about requests, not about texts."""
    if not isinstance(case.body, dict) or case.path.endswith("tokenize") or case.path.endswith("count_tokens"):
        return
    case.body = case.body | {"max_tokens": 4}
    if case.path == "/v1/refine":
        case.body["rounds"] = 1
        return
    case.body.pop("max_completion_tokens", None)
    if case.path != "/v1/messages":
        case.body["n"] = 1
    if isinstance(options := case.body.get("refine", {}), dict):
        case.body["refine"] = options | {"max_tokens": 4, "rounds": 1}


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("operation", [one for one in OPERATIONS if one[0] == "POST"], ids=lambda one: one[1])
def test_every_answer_is_as_documented(live: LiveServer, operation: tuple[str, str], mode: GenerationMode) -> None:
    every_answer_is_as_documented(live.url, operation, mode, examples=25, change=briefly)
    assert live.processes()
    assert live.metric("slhf_num_requests_running") == 0
