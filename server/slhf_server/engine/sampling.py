"""Translates options (options.py) into vLLM's parameters, and vLLM's refusals into ours."""

from collections.abc import Mapping
from typing import Any

from vllm import SamplingParams as VLLMParams
from vllm.exceptions import VLLMClientError, VLLMValidationError
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from slhf_server.engine.options import grammar, sampling_options
from slhf_server.errors import BadRequest
from slhf_server.models.base import SamplingParams


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
    options = sampling_options(sampling, defaults, room)
    try:
        if sampling.logit_bias:
            options["logit_bias"] = _biases(sampling.logit_bias)
        if (written := grammar(sampling)) is not None:
            options["structured_outputs"] = StructuredOutputsParams(**written)
        return EngineParams(**options, output_kind=kind)
    except (ValueError, TypeError, VLLMValidationError) as exc:
        raise refusal(exc) from exc


def refusal(exc: Exception, param: str | None = None) -> BadRequest:
    """vLLM's error about a value, without the value that vLLM appends."""
    named = exc.parameter if isinstance(exc, VLLMValidationError) else None
    message = str(exc.args[0]) if isinstance(exc, VLLMClientError) and exc.args else str(exc)
    return BadRequest(f"{param}: {message}" if param and not named else message, param=named or param)


def _biases(logit_bias: Mapping[str, float]) -> dict[int, float]:
    """Biases by token id, in OpenAI's range: more than 100 either way has no further effect and could overflow."""
    try:
        biases = {int(token): float(bias) for token, bias in logit_bias.items()}
    except ValueError as exc:
        raise VLLMValidationError(f"logit_bias must map token ids to numbers: {exc}", parameter="logit_bias") from exc
    if not all(-100 <= bias <= 100 for bias in biases.values()):
        raise VLLMValidationError("logit_bias must be between -100 and 100", parameter="logit_bias")
    return biases
