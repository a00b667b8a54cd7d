"""One role of the bundle on vLLM, which turns a conversation into chunks of text."""

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from vllm.exceptions import QueueOverflowError, VLLMClientError
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from slhf.wire import TokenLogprob
from slhf_server.engine.completion import Completion, Piece
from slhf_server.engine.logprobs import token_logprobs
from slhf_server.engine.options import room_for
from slhf_server.engine.parsing import OutputParsers
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.engine.sampling import engine_params, refusal
from slhf_server.errors import EngineFailed, EngineUnavailable, QueueFull
from slhf_server.models.base import Chunk, SamplingParams, Turn

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VLLMRole:
    """Implements `ChatModel` for one role on the engine."""

    name: str
    llm: AsyncLLM
    encoder: PromptEncoder
    defaults: dict[str, Any]
    adapter: LoRARequest | None
    parsers: OutputParsers
    step: int = 0
    """Added to the priority of each completion."""

    async def stream(
        self, turns: Sequence[Turn], sampling: SamplingParams, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        limit = self.llm.model_config.max_model_len
        tools = () if sampling.tools is None else sampling.tools.offered
        ids = await self.encoder.encode_beside(turns, limit, tools, sampling.template_options)
        reading = self.parsers.reading(sampling, ids)
        if reading is not None and reading.shows_special_tokens:
            sampling = replace(sampling, skip_special_tokens=False)
        kind = RequestOutputKind.DELTA if deltas else RequestOutputKind.FINAL_ONLY
        params = engine_params(sampling, self.defaults, room_for(len(ids), sampling, limit), kind)
        opened = self.encoder.opens_thought(ids) and self.parsers.reasoning_parser is None
        completion = Completion(self.encoder, sampling, opened, reading, deltas)
        prompt = tokens_input(ids, cache_salt=sampling.cache_salt)
        thinking = self.parsers.engine_options(sampling)
        priority = sampling.priority + self.step
        outputs = self.llm.generate(
            prompt, params, request_id=request_id, lora_request=self.adapter, priority=priority, **thinking
        )
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    yield completion.chunk(_piece(output, sampling, self.encoder))
        except EngineFailed as exc:
            _logger.error("request %s: %s", request_id, exc.message)
            raise
        except QueueOverflowError as exc:
            raise QueueFull("the engine's queue is full") from exc
        except VLLMClientError as exc:  # a grammar's error names no parameter
            raise refusal(exc, None if sampling.structure is None else sampling.structure.param) from exc
        except EngineGenerateError as exc:
            if isinstance(exc.__cause__, ValueError | TypeError | OverflowError):  # no tokenizer or message holds it
                raise refusal(exc.__cause__) from exc
            cause = exc.__cause__ or exc
            _logger.error("request %s: the engine failed: %s: %s", request_id, type(cause).__name__, cause)
            raise EngineFailed("the engine failed on this request") from exc
        except EngineDeadError as exc:
            raise EngineUnavailable("the engine has died") from exc


def _piece(output: RequestOutput, sampling: SamplingParams, encoder: PromptEncoder) -> Piece:
    said = output.outputs[0]
    ids = list(said.token_ids)
    accepted, rejected = _guesses(said)
    logprobs: tuple[TokenLogprob, ...] = ()
    if sampling.logprobs is not None and said.logprobs is not None:
        logprobs = tuple(token_logprobs(ids, said.logprobs[: len(ids)], sampling.logprobs, encoder))
    return Piece(
        text=said.text,
        token_ids=ids,
        prompt_tokens=len(output.prompt_token_ids or ()),
        cached_tokens=output.num_cached_tokens or 0,
        finish_reason=said.finish_reason,
        stop_reason=said.stop_reason,
        logprobs=logprobs,
        accepted_tokens=accepted,
        rejected_tokens=rejected,
    )


def _guesses(piece: CompletionOutput) -> tuple[int, int]:
    """How many guessed tokens were confirmed and how many not, which vLLM tells on the last output.

    It does not tell where a stop string ended the completion.
    """
    summary = piece.spec_decode_metrics
    if summary is None:
        return 0, 0
    accepted = sum(length * steps for length, steps in enumerate(summary.histogram))
    return accepted, summary.num_draft_tokens - accepted
