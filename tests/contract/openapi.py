"""Requests made from our own OpenAPI document, and what every answer must be."""

from collections.abc import Callable
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
OPERATIONS = [
    ("POST", "/v1/refine"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("POST", "/v1/votes"),
    ("GET", "/v1/shadow/{model}"),
    ("GET", "/v1/preferences/{model}"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/version"),
    ("GET", "/metrics"),
]
Change = Callable[[Case[Any]], None]


def every_answer_is_as_documented(
    url: str,
    operation: tuple[str, str],
    mode: GenerationMode,
    *,
    examples: int,
    change: Change = lambda case: None,
    key: str | None = None,
) -> None:
    """No bug, and no status, content type or body that the document does not know."""
    method, path = operation
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    cases: SearchStrategy[Case[Any]] = schema[path][method].as_strategy(generation_mode=mode)

    @settings(deadline=None, max_examples=examples, database=None, suppress_health_check=list(HealthCheck))
    @given(case=cases)
    def hold(case: Case[Any]) -> None:
        change(case)
        answer = case.call_and_validate(session=session, checks=CHECKS, timeout=60)
        late = answer.status_code == 504 and "deadline_exceeded" in answer.text
        assert answer.status_code < 500 or late, answer.text

    with requests.Session() as session:
        if key is not None:
            session.headers["Authorization"] = f"Bearer {key}"
        hold()
