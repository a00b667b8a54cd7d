"""Translates `SamplingParams` (models/base.py) into vLLM's parameters, and vLLM's refusals into ours."""

from collections.abc import Mapping
from typing import Any

from vllm import SamplingParams as VLLMParams
from vllm.exceptions import VLLMClientError, VLLMValidationError
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from slhf_server.errors import BadRequest
from slhf_server.models.base import SamplingParams
from slhf_server.models.structured_output.response_format import StructuredOutput

_LISTS = ("stop", "bad_words", "stop_token_ids", "allowed_token_ids")  # vLLM takes no tuple
_ELSEWHERE = (
    *("max_total_tokens", "structure", "logit_bias", "cache_salt"),
    *("upstream_params", "tools", "template_options"),
)
_PASSED_ON = tuple(name for name in SamplingParams.__dataclass_fields__ if name not in (*_LISTS, *_ELSEWHERE))


class EngineParams(VLLMParams):  # type: ignore[misc]
    """vLLM's parameters, with its refusal of min_p and logit_bias lifted where repairs.py makes them work."""

    def _validate_structured_outputs(self, model_config: Any, config: Any, tokenizer: Any) -> None:
        """vLLM compiles the grammar here, on the event loop, which a schema can hold for minutes.

        A grammar of guidance has been compiled when the request was read, in another process (structured_output/).
        """
        if self.structured_outputs is None or config is None or config.backend != "guidance":
            VLLMParams._validate_structured_outputs(self, model_config, config, tokenizer)
        else:
            self.structured_outputs._backend = config.backend

    def _validate_spec_decode(self, speculative_config: Any) -> None:
        try:
            VLLMParams._validate_spec_decode(self, speculative_config)
        except VLLMValidationError as exc:
            if not unguessed(speculative_config):
                param = "logit_bias" if self.logit_bias else "min_p"
                message = f"{param} does not go with this server's speculation: it must run with --speculation off"
                raise VLLMValidationError(message, parameter=param) from exc


def unguessed(speculative_config: Any) -> bool:
    """Whether repairs.py keeps guesses away from single requests.

    Without a number of guesses for each batch size, vLLM's scheduler also pads a request whose prompt is cached but for
    one token with rejected guesses, past the repair.
    """
    scheduled = speculative_config.num_speculative_tokens_per_batch_size
    return bool(current_platform.is_cpu() and speculative_config.method == "ngram" and scheduled)


def engine_params(
    sampling: SamplingParams, defaults: Mapping[str, Any], room: int, kind: RequestOutputKind
) -> EngineParams:
    """vLLM's parameters for at most `room` tokens. Raises BadRequest for values that vLLM refuses."""
    wishes = {name: value for name in _PASSED_ON if (value := getattr(sampling, name)) is not None}
    options = {**defaults, **wishes}
    options["max_tokens"] = min(options.get("max_tokens") or room, room)
    if options["max_tokens"] == room:  # there may be less room than min_tokens asks for
        options["min_tokens"] = min(options.get("min_tokens", 0), room)
    options |= {name: list(value) for name in _LISTS if (value := getattr(sampling, name)) is not None}
    try:
        if sampling.logit_bias:
            options["logit_bias"] = _biases(sampling.logit_bias)
        if sampling.structure is not None:
            options["structured_outputs"] = _grammar(sampling.structure)
            if sampling.ignore_eos:  # vLLM would write on after the JSON's end, without the grammar
                raise VLLMValidationError("ignore_eos does not go with response_format", parameter="ignore_eos")
        return EngineParams(**options, output_kind=kind)
    except (ValueError, TypeError, VLLMValidationError) as exc:
        raise refusal(exc) from exc


def refusal(exc: Exception, param: str | None = None) -> BadRequest:
    """vLLM's error about a value, without the value that vLLM appends."""
    named = exc.parameter if isinstance(exc, VLLMValidationError) else None
    message = str(exc.args[0]) if isinstance(exc, VLLMClientError) and exc.args else str(exc)
    return BadRequest(f"{param}: {message}" if param and not named else message, param=named or param)


def _grammar(structure: StructuredOutput) -> StructuredOutputsParams:
    if structure.schema is None:
        return StructuredOutputsParams(json_object=True)
    return StructuredOutputsParams(json=structure.text)  # as text: msgpack has no integers above 64 bits


def _biases(logit_bias: Mapping[str, float]) -> dict[int, float]:
    """Biases by token id, in OpenAI's range: more than 100 either way has no further effect and could overflow."""
    try:
        biases = {int(token): float(bias) for token, bias in logit_bias.items()}
    except ValueError as exc:
        raise VLLMValidationError(f"logit_bias must map token ids to numbers: {exc}", parameter="logit_bias") from exc
    if not all(-100 <= bias <= 100 for bias in biases.values()):
        raise VLLMValidationError("logit_bias must be between -100 and 100", parameter="logit_bias")
    return biases
