"""`POST /v1/messages/count_tokens`: how many tokens the Leader's prompt would have."""

from fastapi import APIRouter, Request

from slhf_server.api.anthropic.message_request import CountRequest
from slhf_server.api.anthropic.message_schema import TokenCount
from slhf_server.api.body import JsonRoute
from slhf_server.api.dependencies import RunningService
from slhf_server.api.error_handlers import ANTHROPIC_TOKEN_RESPONSES
from slhf_server.api.tokens import in_turn
from slhf_server.refinement import conversation

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/messages/count_tokens", response_model=TokenCount, responses=ANTHROPIC_TOKEN_RESPONSES)
async def count_tokens(body: CountRequest, request: Request, service: RunningService) -> TokenCount:
    request.state.names = body.names
    planner = service.planner()
    tokenizer, most = planner.tokenizer(body.model)
    body.check_supported("engine")
    tools = planner.tools(body.model, body.tools_as_chat())

    def count() -> int:
        messages = body.chat()
        conversation.check(messages)
        conversation.check_parts(messages, "engine")
        return tokenizer.count(conversation.as_text(messages), most, tools)

    return TokenCount(input_tokens=await in_turn(count))
