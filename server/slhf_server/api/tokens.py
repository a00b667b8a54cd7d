"""`POST /tokenize` and `POST /detokenize`, in the shapes that vLLM 0.32 has them; no model is asked."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator

from slhf.history import Message
from slhf.wire import Section
from slhf_server.api.body import JsonRoute
from slhf_server.api.dependencies import RunningService
from slhf_server.api.error_handlers import TOKEN_RESPONSES
from slhf_server.api.parameter import Parameter, document, filter_parameters
from slhf_server.api.results import json_bytes
from slhf_server.models.base import Tokenizer
from slhf_server.refinement import conversation

T = TypeVar("T")
_POOL = ThreadPoolExecutor(1, "tokens")  # a long text may take seconds; they wait for each other alone
router = APIRouter(route_class=JsonRoute)

TOKENIZE: dict[str, Parameter] = {
    "model": Parameter("used"),
    "prompt": Parameter("used"),
    "messages": Parameter("used"),
    "add_special_tokens": Parameter("used"),
    "add_generation_prompt": Parameter("used"),
    "return_token_strs": Parameter("used"),
    "continue_final_message": Parameter("rejected", "an answer is not prefilled", (False,)),
    "chat_template": Parameter("rejected", "the model's own is used"),
    "chat_template_kwargs": Parameter("rejected", "the chat template gets none", ({},)),
    "tools": Parameter("rejected", "the bundle's prompts have none", ([],)),
    "media_io_kwargs": Parameter("rejected", "text is all that is read", ({},)),
    "mm_processor_kwargs": Parameter("rejected", "text is all that is read", ({},)),
}


class TokenizeRequest(Section):
    """Body of `POST /tokenize`: exactly one of `prompt` and `messages`."""

    model_config = ConfigDict(json_schema_extra=document(TOKENIZE))

    model: StrictStr | None = None
    prompt: StrictStr | None = None
    messages: Annotated[list[Message], Field(fail_fast=True)] | None = None
    add_special_tokens: StrictBool | None = None
    """Whether the tokenizer's own (such as a beginning of text) are added; None: to a prompt, not to messages."""
    add_generation_prompt: StrictBool = True
    """Messages: whether the tokens end where an assistant's next turn begins."""
    return_token_strs: StrictBool = False

    @model_validator(mode="before")
    @classmethod
    def _decide_every_parameter(cls, body: Any) -> Any:
        return filter_parameters(body, TOKENIZE)

    @model_validator(mode="after")
    def _one_text(self) -> "TokenizeRequest":
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("give exactly one of 'messages' and 'prompt'")
        return self

    def ids(self, tokenizer: Tokenizer, most: int) -> list[int]:
        """The tokens. Raises BadRequest for messages that no prompt of the model could have."""
        if self.prompt is not None:
            return tokenizer.text_ids(self.prompt, most, special_tokens=self.add_special_tokens is not False)
        messages = self.messages or []
        conversation.check_begun(messages)
        conversation.check_parts(messages, "engine")
        return tokenizer.chat_ids(
            conversation.as_text(messages),
            most,
            generation_prompt=self.add_generation_prompt,
            special_tokens=bool(self.add_special_tokens),
        )


class TokenizeResponse(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(Section):
    """Body of `POST /detokenize`."""

    model: StrictStr | None = None
    tokens: Annotated[list[Annotated[StrictInt, Field(ge=0, lt=2**31)]], Field(fail_fast=True)]


class DetokenizeResponse(BaseModel):
    prompt: str


@router.post("/tokenize", response_model=TokenizeResponse, responses=TOKEN_RESPONSES)
async def tokenize(body: TokenizeRequest, request: Request, service: RunningService) -> Response:
    request.state.names = lambda: {} if body.prompt is None else {"messages": "prompt"}
    tokenizer, most = service.planner().tokenizer(body.model)

    def answer() -> bytes:
        ids = body.ids(tokenizer, most)
        spelled = tokenizer.tokens(ids) if body.return_token_strs else None
        return json_bytes({"count": len(ids), "max_model_len": most, "tokens": ids, "token_strs": spelled})

    return Response(await in_turn(answer), media_type="application/json")


@router.post("/detokenize", response_model=DetokenizeResponse, responses=TOKEN_RESPONSES)
async def detokenize(body: DetokenizeRequest, request: Request, service: RunningService) -> Response:
    tokenizer, _ = service.planner().tokenizer(body.model)

    def answer() -> bytes:
        return json_bytes({"prompt": tokenizer.text(body.tokens)})

    return Response(await in_turn(answer), media_type="application/json")


async def in_turn(work: Callable[[], T]) -> T:
    """The result of work on tokens, which is done in a thread, one request's after another's."""
    return await asyncio.get_running_loop().run_in_executor(_POOL, work)
