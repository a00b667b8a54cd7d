"""What becomes of each parameter of OpenAI's endpoints: the tables that the server enforces and docs/api.md shows.

`python -m slhf_server.api.openai.parameters chat` (or completions, responses) prints one as Markdown.
"""

import sys

from slhf_server.api.parameter import PRIORITY, Parameter, rows

_STATELESS = {
    "user": Parameter("ignored", "no per-user state is kept"),
    "safety_identifier": Parameter("ignored", "no per-user state is kept"),
    "metadata": Parameter("ignored", "nothing is stored"),
    "store": Parameter("ignored", "nothing is stored"),
    "service_tier": Parameter("ignored", "there is one tier"),
    "prompt_cache_key": Parameter("ignored", "the prefix cache needs no key"),
    "prompt_cache_options": Parameter("ignored", "the prefix cache has none"),
    "prompt_cache_retention": Parameter("ignored", "the prefix cache keeps what fits"),
    "moderation": Parameter("rejected", "the server judges no content"),
}
_FOREIGN = {
    "extra_body": Parameter("rejected", "its keys belong at the top level", ({},)),
    "request_id": Parameter("ignored", "X-Request-Id names a request"),
    "session_id": Parameter("ignored", "no session is kept"),
    "include_reasoning": Parameter("ignored", "thoughts are taken out of every answer"),
    "priority": PRIORITY,
    "cache_salt": Parameter("rejected", "the server decides who shares a prefix cache"),
    "return_token_ids": Parameter("rejected", "use logprobs", (False,)),
    "return_tokens_as_token_ids": Parameter("rejected", "use logprobs", (False,)),
    "prompt_logprobs": Parameter("rejected", "a prompt has none here"),
    "truncate_prompt_tokens": Parameter("rejected", "nothing is cut silently"),
    "use_beam_search": Parameter("rejected", "every round is sampled", (False,)),
    "length_penalty": Parameter("rejected", "every round is sampled", (1.0,)),
    "early_stopping": Parameter("rejected", "every round is sampled", (False,)),
    "spaces_between_special_tokens": Parameter("rejected", "not supported", (True,)),
    "add_special_tokens": Parameter("rejected", "the chat template adds them", (False,)),
    "kv_transfer_params": Parameter("rejected", "not supported"),
    "vllm_xargs": Parameter("rejected", "not supported", ({},)),
} | {
    name: Parameter("rejected", "use response_format (in the Responses API: text.format)", ({},))
    for name in (
        *("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"),
        *("guided_decoding_backend", "guided_whitespace_pattern"),
    )
}
"""Parameters that clients of vLLM and other servers send to any endpoint that generates."""
_UPSTREAMS = {
    "chat_template_kwargs": Parameter("leader", "vLLM; a bundle's Follower too, and 400 for unknown ones", ({},)),
    "documents": Parameter("upstream", "vLLM", ([],)),
    "mm_processor_kwargs": Parameter("upstream", "vLLM", ({},)),
    "media_io_kwargs": Parameter("upstream", "vLLM", ({},)),
    "thinking_token_budget": Parameter("upstream", "vLLM"),
    "reasoning": Parameter("upstream", "OpenRouter", ({}, {"effort": "none"}, {"enabled": False}, {"exclude": True})),
    "thinking": Parameter("upstream", "DeepSeek, Anthropic, GLM", ({}, {"type": "disabled"})),
    "enable_thinking": Parameter("upstream", "Qwen", (False,)),
    "thinking_budget": Parameter("upstream", "Qwen"),
    "provider": Parameter("upstream", "OpenRouter", ({},)),
    "models": Parameter("upstream", "OpenRouter", ([],)),
    "route": Parameter("upstream", "OpenRouter"),
    "transforms": Parameter("upstream", "OpenRouter", ([],)),
    "plugins": Parameter("upstream", "OpenRouter", ([],)),
    "safe_prompt": Parameter("upstream", "Mistral", (False,)),
}
"""Parameters of other servers beyond OpenAI's chat."""
_VLLM = {
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
}
_SAMPLING = {
    "temperature": Parameter("both", "refine.temperature overrides it for the Follower"),
    "top_p": Parameter("both", "refine.top_p overrides it for the Follower"),
    "stop": Parameter("both"),
    "seed": Parameter("both"),
    "frequency_penalty": Parameter("both"),
    "presence_penalty": Parameter("both"),
}

CHAT: dict[str, Parameter] = {
    "model": Parameter("used", "one of GET /v1/models; without it, the default model"),
    "messages": Parameter("used"),
    "stream": Parameter("used"),
    "stream_options": Parameter("used", "include_usage; the usage so far is not told in every chunk"),
    "n": Parameter("used", "independent chains; each draws with seeds of its own"),
    "refine": Parameter("used", "the refinement itself"),
    **_SAMPLING,
    "max_tokens": Parameter("both", "per round; refine.max_tokens overrides it for the Follower"),
    "max_completion_tokens": Parameter("both", "newer name of max_tokens"),
    "response_format": Parameter("both", "a Follower's round that is not valid is discarded"),
    "logprobs": Parameter("both", "those of the returned round"),
    "top_logprobs": Parameter("both", "needs logprobs"),
    **_VLLM,
    "tools": Parameter("leader", "a turn that calls tools is returned as it is", ([],), ("tool_choice", "none")),
    "tool_choice": Parameter("leader", "a demanded call is a 400 where the Leader can call none", ("none", "auto")),
    "parallel_tool_calls": Parameter("leader", "false: at most one call", (True, False)),
    "reasoning_effort": Parameter("leader", "400 where the bundle's chat template does not know it", ("none",)),
    "verbosity": Parameter("upstream", "for the Follower, say it in refine.instruction", ("medium",)),
    **_UPSTREAMS,
    **_STATELESS,
    "usage": Parameter("ignored", "OpenRouter; every answer tells it, a stream with stream_options.include_usage"),
    **_FOREIGN,
    "add_generation_prompt": Parameter("rejected", "an answer is always due", (True,)),
    "continue_final_message": Parameter("rejected", "use refine.draft: an answer is not prefilled", (False,)),
    "chat_template": Parameter("rejected", "the model's own is used"),
    "echo": Parameter("rejected", "the prompt is a turn of a chat", (False,)),
    "best_of": Parameter("rejected", "use n", (1,)),
    "random_seed": Parameter("rejected", "use seed"),
    "functions": Parameter("rejected", "use tools", ([],), ("function_call", "none")),
    "function_call": Parameter("rejected", "use tool_choice", ("none", "auto")),
    "modalities": Parameter("rejected", "text is the only modality of an answer", (["text"],)),
    "audio": Parameter("rejected", "text is the only modality of an answer"),
    "prediction": Parameter("rejected", "use refine.draft: the draft itself is the prediction"),
    "web_search_options": Parameter("rejected", "the server searches nothing"),
}
TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
OF_THE_ENGINE = tuple(name for name, parameter in CHAT.items() if parameter.support == "engine")

COMPLETIONS: dict[str, Parameter] = {
    "model": Parameter("used", "one of GET /v1/models; without it, the default model"),
    "prompt": Parameter("used", "becomes one user turn; a string, or a list of one"),
    "stream": Parameter("used"),
    "stream_options": Parameter("used", "include_usage"),
    "n": Parameter("used", "as in chat"),
    "refine": Parameter("used", "the refinement itself; without show_rounds"),
    **_SAMPLING,
    "max_tokens": Parameter("both", "per round; 16 unless given, as OpenAI has it"),
    "logprobs": Parameter("both", "how many of the likeliest tokens, as OpenAI has it here"),
    **_VLLM,
    "user": _STATELESS["user"],
    **_FOREIGN,
    "echo": Parameter("rejected", "the prompt is a turn of a chat", (False,)),
    "suffix": Parameter("rejected", "a chat model does not insert"),
    "best_of": Parameter("rejected", "use n", (1,)),
}

RESPONSES: dict[str, Parameter] = {
    "model": Parameter("used", "one of GET /v1/models; without it, the default model"),
    "input": Parameter("used", "a string, or messages, calls and results; see below"),
    "instructions": Parameter("used", "becomes the system turn"),
    "stream": Parameter("used"),
    "refine": Parameter("used", "the refinement itself; without show_rounds"),
    "temperature": _SAMPLING["temperature"],
    "top_p": _SAMPLING["top_p"],
    "max_output_tokens": Parameter("both", "per round; refine.max_tokens overrides it for the Follower"),
    "text": Parameter("both", "format: text, json_object or json_schema"),
    **_STATELESS,
    **_FOREIGN,
    "stream_options": Parameter(
        "rejected", "has nothing to choose here", ({}, {"include_obfuscation": False}, {"include_obfuscation": True})
    ),
    "truncation": Parameter("rejected", "nothing is cut silently", ("disabled",)),
    **{name: CHAT[name] for name in TOOLS},
    "max_tool_calls": Parameter("rejected", "it limits tools that the server runs, and this one runs none"),
    "top_logprobs": Parameter("rejected", "use chat completions", (0,)),
    "include": Parameter("rejected", "there is nothing to include", ([], ["reasoning.encrypted_content"])),
    "reasoning": Parameter("rejected", "use chat completions", ({}, {"effort": "none"})),
    "previous_response_id": Parameter("rejected", "nothing is stored: send the conversation in input"),
    "conversation": Parameter("rejected", "nothing is stored: send the conversation in input"),
    "background": Parameter("rejected", "nothing is stored", (False,)),
    "background_options": Parameter("rejected", "nothing is stored"),
    "context_management": Parameter("rejected", "nothing is cut silently", ([],)),
    "prompt": Parameter("rejected", "there are no stored prompts"),
    "image": Parameter("rejected", "text is the only modality of an answer"),
    "access_programs": Parameter("rejected", "not supported"),
}


if __name__ == "__main__":
    chosen = {"chat": CHAT, "completions": COMPLETIONS, "responses": RESPONSES}[sys.argv[1]]
    sys.stdout.writelines(f"{row}\n" for row in rows(chosen))
