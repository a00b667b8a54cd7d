"""One role of the bundle on vLLM, which turns a conversation into chunks of text."""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from vllm.exceptions import QueueOverflowError, VLLMClientError
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from slhf.turns import OPEN_THOUGHT
from slhf.wire import FinishReason, TokenLogprob
from slhf_server.engine.logprobs import token_logprobs
from slhf_server.engine.parsing import OutputParsers, Reading, Said
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.engine.sampling import EngineParams, engine_params, refusal
from slhf_server.errors import (
    BadRequest,
    ContextLengthExceeded,
    EngineFailed,
    EngineUnavailable,
    QueueFull,
    TokenBudgetExceeded,
)
from slhf_server.models.base import Chunk, SamplingParams, Turn

_logger = logging.getLogger(__name__)
_SMALL, _FEW = 8 << 10, 32  # characters and turns that are encoded in a millisecond or two
_LONG = 64 << 10
_LONG_PROMPTS = ThreadPoolExecutor(1, "long-prompts")  # each may take seconds, and they wait for each other alone
_FINISHED: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


@dataclass(frozen=True, slots=True)
class VLLMRole:
    """Implements `ChatModel` for one role on the engine."""

    name: str
    llm: AsyncLLM
    encoder: PromptEncoder
    defaults: dict[str, Any]
    adapter: LoRARequest | None
    parsers: OutputParsers
    widest_token: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "widest_token", self.encoder.most_characters_per_token)

    async def stream(
        self, turns: Sequence[Turn], sampling: SamplingParams, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        ids = await self._encoded(turns, sampling)
        reading = self.parsers.reading(sampling, ids)
        if reading is not None and reading.shows_special_tokens:
            sampling = replace(sampling, skip_special_tokens=False)
        params = self._params(sampling, len(ids), deltas)
        opened = self.encoder.opens_thought(ids) and self.parsers.reasoning_parser is None
        completion = _Completion(self.encoder, sampling, opened, reading, deltas)
        prompt = tokens_input(ids, cache_salt=sampling.cache_salt)
        thinking = self.parsers.engine_options(sampling)
        outputs = self.llm.generate(prompt, params, request_id=request_id, lora_request=self.adapter, **thinking)
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    yield completion.chunk(output)
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

    async def _encoded(self, turns: Sequence[Turn], sampling: SamplingParams) -> list[int]:
        """The prompt's ids. A prompt that is not small is encoded in a thread; one that can never fit is refused."""
        limit, widest = self.llm.model_config.max_model_len, self.widest_token
        texts = [turn.text for turn in turns if turn.token_ids is None]
        least = sum(len(text.strip()) for text in texts)  # a template may trim
        if least > limit * widest:
            raise ContextLengthExceeded(math.ceil(least / widest), limit)
        tools = () if sampling.tools is None else sampling.tools.offered
        encode = partial(self.encoder.encode, turns, limit, tools, sampling.template_options)
        characters = sum(map(len, texts)) + sum(map(len, map(str, tools)))
        if characters <= _SMALL and len(turns) <= _FEW:
            return encode()
        pool = None if characters <= _LONG else _LONG_PROMPTS
        return await asyncio.get_running_loop().run_in_executor(pool, encode)

    def _params(self, sampling: SamplingParams, prompt_tokens: int, deltas: bool) -> EngineParams:
        """vLLM's parameters. Raises where no token would fit, and for values that vLLM refuses."""
        room = self.llm.model_config.max_model_len - prompt_tokens
        if room < 1:
            raise ContextLengthExceeded(prompt_tokens, self.llm.model_config.max_model_len)
        if sampling.max_total_tokens is not None:
            room = min(room, sampling.max_total_tokens - prompt_tokens)
        if room < 1:
            raise TokenBudgetExceeded(
                f"max_total_tokens leaves {sampling.max_total_tokens} tokens; the next prompt alone has {prompt_tokens}"
            )
        kind = RequestOutputKind.DELTA if deltas else RequestOutputKind.FINAL_ONLY
        return engine_params(sampling, self.defaults, room, kind)


@dataclass(slots=True)
class _Completion:
    """What one completion has said so far."""

    encoder: PromptEncoder
    sampling: SamplingParams
    opened: bool
    """Whether the template has already opened `<think>`, which is then put back in front of the text."""
    reading: Reading | None = None
    """What reads tool calls, and thoughts of other families."""
    deltas: bool = True
    text: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    calls: list[Mapping[str, Any]] = field(default_factory=list)
    """OpenAI's calls: whole ones, or the pieces that were said."""

    def chunk(self, output: RequestOutput) -> Chunk:
        piece = output.outputs[0]
        said = self._said(piece, finished=output.finished)
        text = OPEN_THOUGHT + said.text if self.opened and not self.text else said.text
        self.text.append(text)
        self.ids += piece.token_ids
        accepted, rejected = _guesses(piece)
        whole = "".join(self.text) if output.finished else None
        return Chunk(
            text=text,
            completion_tokens=len(piece.token_ids),
            prompt_tokens=len(output.prompt_token_ids or ()),
            cached_tokens=output.num_cached_tokens or 0,
            finish_reason=None if piece.finish_reason is None else self._finish_reason(piece, whole),
            accepted_tokens=accepted,
            rejected_tokens=rejected,
            token_ids=None if whole is None else self.encoder.faithful(self._shown(piece, self.ids), whole),
            reasoning_tokens=0 if whole is None else self.encoder.reasoning_tokens(self.ids, whole),
            logprobs=self._logprobs(piece),
            tool_calls=() if self.deltas else tuple(map(_without_index, said.calls)),
            call_deltas=said.calls if self.deltas else (),
        )

    def _said(self, piece: CompletionOutput, *, finished: bool) -> Said:
        """The piece's text and calls."""
        if self.reading is None:
            return Said(piece.text)
        read = partial(self.reading.piece, finished=finished) if self.deltas else self.reading.whole
        said = read(piece.text, piece.token_ids)
        self.calls += said.calls
        return said

    def _logprobs(self, piece: CompletionOutput) -> tuple[TokenLogprob, ...]:
        """Log-probabilities of the text's tokens; OpenAI does not list the token that ends it."""
        if self.sampling.logprobs is None or piece.logprobs is None:
            return ()
        shown = self._shown(piece, list(piece.token_ids))
        return tuple(token_logprobs(shown, piece.logprobs[: len(shown)], self.sampling.logprobs, self.encoder))

    def _shown(self, piece: CompletionOutput, ids: list[int]) -> list[int]:
        """The ids without the token that ended the completion, if one did and the text does not include it."""
        ended_by_token = piece.finish_reason == "stop" and not isinstance(piece.stop_reason, str)
        return ids[:-1] if ended_by_token and not self.sampling.include_stop_str_in_output else ids

    def _finish_reason(self, piece: CompletionOutput, text: str | None) -> FinishReason:
        reason = str(piece.finish_reason)
        if reason == "abort":
            raise EngineUnavailable("the engine is shutting down")
        structure, nothing = self.sampling.structure, not text and not self.calls
        if structure is not None and (reason == "error" or (reason == "stop" and nothing)):
            raise BadRequest(f"{structure.param}: no text can be written under this schema", param=structure.param)
        if reason not in _FINISHED:
            raise EngineFailed(f"the engine ended this completion with {reason!r}")
        return "tool_calls" if reason == "stop" and self.calls else _FINISHED[reason]


def _without_index(call: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in call.items() if key != "index"}


def _guesses(piece: CompletionOutput) -> tuple[int, int]:
    """How many guessed tokens were confirmed and how many not, which vLLM tells on the last output.

    It does not tell where a stop string ended the completion.
    """
    summary = piece.spec_decode_metrics
    if summary is None:
        return 0, 0
    accepted = sum(length * steps for length, steps in enumerate(summary.histogram))
    return accepted, summary.num_draft_tokens - accepted
