"""What becomes of each parameter of OpenAI's chat: the one table that the server enforces and docs/api.md shows.

`python -m slhf_server.parameters` prints it as Markdown.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Fate = Literal["used", "both", "engine", "upstream", "ignored", "rejected"]
_SAID: dict[Fate, str] = {
    "used": "used by the server",
    "both": "Leader and Follower",
    "engine": "Leader and Follower; 400 where an upstream leads",
    "upstream": "an upstream Leader; 400 without one",
    "ignored": "ignored",
    "rejected": "400",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    fate: Fate
    """What becomes of it; in words, `_SAID`. What is ignored is so on purpose."""
    note: str = ""
    neutral: tuple[Any, ...] = ()
    """Values that ask for nothing, accepted where the parameter is not; null always is."""

    @property
    def said(self) -> str:
        """What becomes of it, in words."""
        return f"{_SAID[self.fate]}: {self.note}" if self.note else _SAID[self.fate]


PARAMETERS: dict[str, Parameter] = {
    "model": Parameter("used", "one of GET /v1/models; without it, the default model"),
    "messages": Parameter("used"),
    "stream": Parameter("used"),
    "stream_options": Parameter("used", "include_usage"),
    "n": Parameter("used", "independent chains; the seed of each is one higher than the last's"),
    "refine": Parameter("used", "the refinement itself"),
    "temperature": Parameter("both", "refine.temperature overrides it for the Follower"),
    "top_p": Parameter("both", "refine.top_p overrides it for the Follower"),
    "max_tokens": Parameter("both", "per round; refine.max_tokens overrides it for the Follower"),
    "max_completion_tokens": Parameter("both", "newer name of max_tokens"),
    "stop": Parameter("both"),
    "seed": Parameter("both"),
    "frequency_penalty": Parameter("both"),
    "presence_penalty": Parameter("both"),
    "response_format": Parameter("both", "a Follower's round that is not valid is discarded"),
    "logprobs": Parameter("both", "those of the returned round"),
    "top_logprobs": Parameter("both", "needs logprobs"),
    "top_k": Parameter("both", "vLLM"),
    "min_p": Parameter("both", "vLLM"),
    "min_tokens": Parameter("both", "vLLM"),
    "repetition_penalty": Parameter("both", "vLLM"),
    "ignore_eos": Parameter("both", "vLLM"),
    "bad_words": Parameter("both", "vLLM"),
    "include_stop_str_in_output": Parameter("both", "vLLM"),
    "skip_special_tokens": Parameter("both", "vLLM"),
    "logit_bias": Parameter("engine", "token ids are those of the bundle's tokenizer", ({},)),
    "stop_token_ids": Parameter("engine", "vLLM; as above", ([],)),
    "allowed_token_ids": Parameter("engine", "vLLM; as above"),
    "tools": Parameter("upstream", "a turn that calls tools is returned as it is", ([],)),
    "tool_choice": Parameter("upstream", "", ("none", "auto")),
    "parallel_tool_calls": Parameter("upstream", "", (True, False)),
    "reasoning_effort": Parameter("upstream", "", ("none",)),
    "verbosity": Parameter("upstream", "for the Follower, say it in refine.instruction", ("medium",)),
    "user": Parameter("ignored", "no per-user state is kept"),
    "safety_identifier": Parameter("ignored", "no per-user state is kept"),
    "metadata": Parameter("ignored", "nothing is stored"),
    "store": Parameter("ignored", "nothing is stored"),
    "service_tier": Parameter("ignored", "there is one tier"),
    "prompt_cache_key": Parameter("ignored", "the prefix cache needs no key"),
    "prompt_cache_retention": Parameter("ignored", "the prefix cache keeps what fits"),
    "functions": Parameter("rejected", "use tools", ([],)),
    "function_call": Parameter("rejected", "use tool_choice", ("none", "auto")),
    "modalities": Parameter("rejected", "text is the only modality of an answer", (["text"],)),
    "audio": Parameter("rejected", "text is the only modality of an answer"),
    "prediction": Parameter("rejected", "use refine.draft: the draft itself is the prediction"),
    "web_search_options": Parameter("rejected", "the server searches nothing"),
}


def rows() -> Iterator[str]:
    """The table's lines."""
    yield "| parameter | what becomes of it | note | accepted nevertheless |"
    yield "|---|---|---|---|"
    for name, parameter in PARAMETERS.items():
        refused_somewhere = parameter.fate in ("rejected", "upstream", "engine")
        neutral = (None, *parameter.neutral) if refused_somewhere else ()
        values = ", ".join(f"`{json.dumps(value)}`" for value in neutral)
        yield f"| `{name}` | {_SAID[parameter.fate]} | {parameter.note} | {values} |"


if __name__ == "__main__":
    sys.stdout.writelines(f"{row}\n" for row in rows())
