"""The one door from a request to its jobs, whatever its endpoint."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

from fastapi import Request

from slhf_server.access.keys import Key, Keyring
from slhf_server.api.error_handlers import Names
from slhf_server.api.headers import asks_for_no_store, trace_headers
from slhf_server.api.parameter import priority_header
from slhf_server.models.structured_output.response_format import structured_output_of
from slhf_server.refinement.job import Job
from slhf_server.refinement.planner import RefineParams
from slhf_server.service import Service

_OWN = ("rounds", "draft", "timeout_ms", "max_total_tokens", "select", "stop_when", "profile")
IN_REFINE = {name: f"refine.{name}" for name in _OWN}
"""Where OpenAI's endpoints and Anthropic's have what stands at the top of `/v1/refine`."""


async def planned(
    request: Request,
    service: Service,
    params: RefineParams,
    names: Names,
    *,
    response_format: Mapping[str, Any] | None = None,
) -> list[Job]:
    """A job for each choice. Raises what refuses the request.

    `params`: what the body asks for; what else a job has of its request is added here. `names`: what the client calls
    the parameters that an error, now or later, names.
    """
    request.state.names = names
    key: Key | None = request.state.key
    keyring: Keyring = request.app.state.keyring
    if key is not None and key.entry.tokens_per_day is not None:
        key.check_budget(await keyring.spent_today(key))
    planner = service.planner()
    structure = None if response_format is None else structured_output_of(response_format, service.workers)
    whole = replace(
        params,
        sampling=replace(params.sampling, structure=structure, priority=_priority(request, params.priority)),
        keys_profile=None if key is None else key.entry.profile,
        counts_tokens=key is not None and key.entry.tokens_per_day is not None,
        cache_salt=keyring.cache_salt(request.state.log.get("key")),
        log=request.state.log,
        trace=trace_headers(request.headers),
        no_store=asks_for_no_store(request.headers),
    )
    jobs = planner.plan(whole)
    request.state.model = jobs[0].model
    job = jobs[0]
    with closing(job.deadline):
        if structure is not None:
            await job.deadline.wait_for(structure.check(grammar=job.engine_plays))
        call = None if job.leader is None else job.leader.sampling.structure
        if call is not None and call is not structure:  # tool_choice demands one
            await job.deadline.wait_for(call.check(grammar=True))
    return jobs


def _priority(request: Request, in_body: int | None) -> int:
    """What holds of header, body and key. As in vLLM the header wins, because a gateway may have set it."""
    in_header = priority_header(request.headers)
    asked = in_body if in_header is None else in_header
    key: Key | None = request.state.key
    return (asked or 0) if key is None else key.priority(asked)
