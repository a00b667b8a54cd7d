"""OpenAI's whole answers, as chat and completions have them in common."""

import time
from collections.abc import Mapping
from typing import Any

from fastapi import Response

from slhf_server.api.headers import refinement_headers
from slhf_server.api.openai.chat_request import GenerationRequest
from slhf_server.api.results import combined, json_bytes
from slhf_server.refinement.job import Job
from slhf_server.refinement.state import RefinementResult


def answered(
    job: Job, ended: Mapping[int, RefinementResult], choices: list[dict[str, Any]], body: GenerationRequest, kind: str
) -> Response:
    """The whole answer; `kind` is OpenAI's `object`. Each of several choices has a report beside the one for all."""
    with_rounds = bool(body.refine.return_rounds)
    whole = combined(ended)
    if len(ended) > 1:
        reports = (result.report(with_rounds).model_dump() for result in ended.values())
        choices = [choice | {"refinement": report} for choice, report in zip(choices, reports, strict=True)]
    answer = {
        "id": job.id,
        "object": kind,
        "created": int(time.time()),
        "model": job.model,
        "choices": choices,
        "usage": whole.usage.model_dump(),
        "refinement": whole.report(with_rounds).model_dump(),
    }
    return Response(json_bytes(answer), media_type="application/json", headers=refinement_headers(whole))
