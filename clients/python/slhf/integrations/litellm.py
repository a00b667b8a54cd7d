"""LiteLLM's proxy has answers refined: a guardrail for its `config.yaml` (docs/gateways.md).

    guardrails:
      - guardrail_name: refine
        litellm_params:
          guardrail: slhf.integrations.litellm.SlhfRefine
          mode: post_call
          default_on: true
          api_base: http://127.0.0.1:8000     # else SLHF_BASE_URL
          api_key: os.environ/SLHF_API_KEY    # else SLHF_API_KEY
          timeout: 60                         # seconds
          refine: {rounds: 1}                 # options of POST /v1/refine

LiteLLM's own handlers read the requests and answers of chat, messages and responses (`guardrail_translation`), and
write the refined text back into them. They hand `apply_guardrail` the answer's texts and the request's body.
"""

import asyncio
import copy
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from typing import Any, cast

from litellm._logging import verbose_proxy_logger
from litellm.integrations.custom_guardrail import CustomGuardrail
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.guardrails.guardrail_hooks.unified_guardrail.unified_guardrail import resolve_endpoint_translation
from litellm.types.guardrails import GuardrailEventHooks
from pydantic import ValidationError

from slhf._exchange import Conversation, Options, refine_request
from slhf.client import AsyncClient
from slhf.errors import SLHFError

GRACE_S = 1.0
"""Seconds after the deadline in which the server may still send the best text that it has finished."""

ROUTE = "user_api_key_request_route"
"""Where LiteLLM keeps the path that was called, in one of a request's two metadata."""


class SlhfRefine(CustomGuardrail):  # type: ignore[misc]  # LiteLLM is not installed where types are checked
    """Refines what the model answered; whatever goes wrong, the answer stays as it is and the proxy's log says why.

    `api_base`, `api_key` and proxies as in `slhf.Client`. `timeout` is in seconds for a whole refinement. `refine`
    holds options of `POST /v1/refine`. Raises ConfigurationError or ValueError for what cannot be used, so the proxy
    does not start. The remaining arguments are LiteLLM's own.
    """

    def __init__(
        self,
        *,
        api_base: str | None = None,
        api_key: str | None = None,
        timeout: float = 60.0,
        refine: Options | None = None,
        **litellm_params: Any,
    ) -> None:
        super().__init__(**litellm_params, supported_event_hooks=[GuardrailEventHooks.post_call])
        self.mask_response_content = True  # LiteLLM's word for a guardrail that rewrites, by which streams come here
        self._timeout = timeout
        self._options: Options = {"timeout_ms": round(timeout * 1000), "return_rounds": False, **(refine or {})}
        refine_request("", {**self._options, "draft": ""})  # an option that the contract does not know is refused here
        self._client = AsyncClient(api_base, api_key, timeout=timeout + GRACE_S, max_retries=0)

    async def apply_guardrail(
        self, inputs: Mapping[str, Any], request_data: dict[str, Any], input_type: str, logging_obj: Any = None
    ) -> Mapping[str, Any]:
        """Refine each of the answer's texts: one, or one for each of the choices that `n` asks for."""
        try:
            if input_type != "response" or not _is_refinable(inputs, request_data):
                return inputs
            if (conversation := _conversation(request_data)) is None:
                return inputs
            options = self._options_for(request_data)
            refined = await asyncio.gather(*(self._refine(conversation, text, options) for text in inputs["texts"]))
        except Exception:  # noqa: BLE001 - a bug, here or in LiteLLM's reading, may cost no answer
            verbose_proxy_logger.exception("slhf: the answer is left as it is")
            return inputs
        return {**inputs, "texts": refined}

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: UserAPIKeyAuth, response: AsyncIterable[Any], request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """Hold the stream until the answer is whole, as what was sent cannot be taken back; then send the refined one.

        Without this hook LiteLLM calls `apply_guardrail` at every fifth chunk and drops what it returns.
        """
        held = []
        try:
            async for chunk in response:
                held.append(chunk)
        except Exception:
            for chunk in held:  # as without a guardrail: what came before the error
                yield chunk
            raise
        for chunk in await self._rewritten(held, user_api_key_dict, request_data):
            yield chunk

    async def _rewritten(
        self, held: list[Any], user_api_key_dict: UserAPIKeyAuth, request_data: dict[str, Any]
    ) -> list[Any]:
        """The chunks with the refined text in the first that has text, or as they came."""
        chunks = copy.deepcopy(held)
        try:
            reading = _reading(user_api_key_dict)
            if reading is None or not reading.delivers_ended_stream_rewrites:
                verbose_proxy_logger.warning("slhf: streams of %s are not refined", user_api_key_dict.request_route)
                return held
            await reading.process_output_streaming_response(
                responses_so_far=chunks,
                guardrail_to_apply=self,
                litellm_logging_obj=request_data.get("litellm_logging_obj"),
                user_api_key_dict=user_api_key_dict,
                request_data=request_data,
                deliver_ended_stream_rewrites=True,
            )
        except Exception:  # noqa: BLE001 - as above; a stream without a place for the text is one of them
            verbose_proxy_logger.exception("slhf: the stream is left as it is")
            return held
        return chunks

    def _options_for(self, request_data: Mapping[str, Any]) -> Options:
        """Ours, and the request's limit of tokens, for each round, unless ours have one."""
        names = ("max_completion_tokens", "max_tokens", "max_output_tokens")
        limit = next((request_data[name] for name in names if request_data.get(name) is not None), None)
        return {"max_tokens": limit, **self._options}

    async def _refine(self, conversation: Conversation, draft: str, options: Options) -> str:
        """The refined text, or the draft where the server fails, refuses or is slow."""
        asked: Options = {**options, "draft": draft}
        try:
            async with asyncio.timeout(self._timeout + GRACE_S):
                answer = await self._client.refine(conversation, **asked)
        except (SLHFError, TimeoutError, ValidationError) as exc:
            verbose_proxy_logger.warning("slhf: the answer is left as it is: %s: %s", type(exc).__name__, exc)
            return draft
        done = answer.refinement
        verbose_proxy_logger.debug("slhf: %s rounds, %s, %s ms", done.rounds_run, done.stop_reason, done.duration_ms)
        return answer.output


def _reading(user_api_key_dict: UserAPIKeyAuth) -> Any:
    """LiteLLM's handler for the endpoint that was called; None where it has none."""
    found = resolve_endpoint_translation(user_api_key_dict, None)
    return found and found[1]


def _conversation(request_data: dict[str, Any]) -> Conversation | None:
    """The request's messages in OpenAI's form, whatever the endpoint, or its prompt; None where it has neither."""
    buckets = [request_data.get(name) or {} for name in ("metadata", "litellm_metadata")]
    route = next((bucket[ROUTE] for bucket in buckets if bucket.get(ROUTE)), None)
    reading = _reading(UserAPIKeyAuth(request_route=route))
    messages = reading.get_structured_messages(request_data) if reading else request_data.get("messages")
    prompt = request_data.get("prompt")
    return cast(Conversation | None, messages or (prompt if isinstance(prompt, str) else None))


def _is_refinable(inputs: Mapping[str, Any], request_data: Mapping[str, Any]) -> bool:
    """Whether the answer is one text in words for each choice: no calls of tools, no JSON, nothing empty."""
    texts = inputs.get("texts") or []
    return (
        len(texts) == (request_data.get("n") or 1)
        and all(text.strip() for text in texts)
        and not inputs.get("tool_calls")
        and not _asks_for_structure(request_data)
    )


def _asks_for_structure(request_data: Mapping[str, Any]) -> bool:
    """Whether chat's response_format, messages' output_config or responses' text asks for JSON."""
    places = [request_data.get(name) or {} for name in ("output_config", "text")]
    formats = [request_data.get("response_format"), *(place.get("format") for place in places)]
    return any(wanted and not (isinstance(wanted, dict) and wanted.get("type") == "text") for wanted in formats)
