"""What the endpoints have in common that generate: from a request to its jobs, from what they came to to an answer."""

import json
import time
from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response

from slhf_server.api.error_handlers import Names
from slhf_server.api.headers import refinement_headers, trace_headers
from slhf_server.api.openai.chat_request import ChatRequest, GenerationRequest
from slhf_server.api.results import combined
from slhf_server.models.structured_output.response_format import structured_output_of
from slhf_server.refinement.job import Endpoint, Job
from slhf_server.refinement.planner import RefineParams
from slhf_server.refinement.state import RefinementResult
from slhf_server.service import Service


async def planned(
    request: Request, service: Service, cache_salt: str | None, body: ChatRequest, endpoint: Endpoint, names: Names
) -> list[Job]:
    """The jobs of a request that is a chat or can be read as one. Raises what refuses it.

    `names`: what the client calls the parameters that an error, now or later, names.
    """
    request.state.names = names
    planner = service.planner()
    structure = None if body.response_format is None else structured_output_of(body.response_format, service.workers)
    ask = RefineParams(
        endpoint=endpoint,
        request_id=request.state.request_id,
        model=body.model,
        messages=body.messages,
        options=body.refine,
        sampling=body.sampling(structure),
        deltas="none" if not body.stream else "all" if body.refine.show_rounds else "last",
        choices=body.n or 1,
        cache_salt=cache_salt,
        log=request.state.log,
        trace=trace_headers(request.headers),
        check_supported=body.check_supported,
    )
    jobs = planner.plan(ask)
    request.state.model = jobs[0].model
    if structure is not None:
        await jobs[0].deadline.wait_for(structure.check(grammar=jobs[0].engine_plays))
    return jobs


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


def json_bytes(answer: dict[str, Any]) -> bytes:
    """The answer as JSON in UTF-8. Half of a surrogate pair, which a text may hold, is escaped as in JSON."""
    return json.dumps(answer, ensure_ascii=False).encode("utf-8", "backslashreplace")
