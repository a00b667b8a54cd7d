"""What people and judges say of refinements: votes, the report of a shadow, and preference pairs."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from slhf.verdicts import PreferenceList, ShadowReport, Vote, VoteRequest
from slhf_server.api.body import JsonRoute
from slhf_server.api.dependencies import RunningService
from slhf_server.api.error_handlers import errors

router = APIRouter(route_class=JsonRoute)

_READING = errors(400, 401, 404, 429, 431, 500, 503)
_MOST_PAIRS = 100  # of a page


@router.post("/v1/votes", responses=errors(400, 401, 404, 408, 413, 415, 429, 431, 500, 503))
async def vote(body: VoteRequest, request: Request, service: RunningService) -> Vote:
    """Keep a vote on two rounds of a refinement that the same key has asked for; of several on them the last counts."""
    return await service.ledger.vote(body, request.state.log.get("key"))


@router.get("/v1/shadow/{model:path}", responses=_READING)
async def shadow(model: str, service: RunningService) -> ShadowReport:
    """What the verdicts on a served model say so far."""
    return await service.ledger.report(service.planner().name_of(model))


@router.get("/v1/preferences/{model:path}", responses=_READING)
async def preferences(
    model: str,
    request: Request,
    service: RunningService,
    after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Annotated[int, Query(ge=1, le=_MOST_PAIRS)] = _MOST_PAIRS,
) -> PreferenceList:
    """Pairs of texts of which one was better, oldest first."""
    key = request.state.log.get("key")
    return await service.ledger.pairs(service.planner().name_of(model), key, after, limit)
