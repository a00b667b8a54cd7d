"""What becomes of each parameter of Anthropic's messages: the tables that the server enforces and docs/api.md shows.

`python -m slhf_server.api.anthropic.message_parameters messages` (or count_tokens) prints one as Markdown.
"""

import sys
from typing import Any

from slhf_server.api.parameter import PRIORITY, Parameter, rows

_NO_TOOL = {"type": "none"}
_ANY_WAY: tuple[dict[str, Any], ...] = (
    {"type": "auto"},
    _NO_TOOL,
    *({"type": "auto", "disable_parallel_tool_use": value} for value in (False, True)),
)
_PROMPT = {
    "model": Parameter("used", "one of GET /v1/models; without it, the default model"),
    "messages": Parameter("used", "text, calls of tools and their results; see below"),
    "system": Parameter("used", "a string or text blocks; the system turn"),
    "tools": Parameter("leader", "a turn that calls tools is returned as it is", ([],), ("tool_choice", _NO_TOOL)),
    "tool_choice": Parameter("leader", "a demanded call is a 400 where the Leader can call none", _ANY_WAY),
    "thinking": Parameter(
        "upstream",
        "an upstream's thoughts are taken out; refine.show_rounds shows earlier rounds",
        ({"type": "disabled"}, {"type": "adaptive"}),
    ),
    "cache_control": Parameter("ignored", "the prefix cache needs no marks"),
    "speed": Parameter("rejected", "there is one speed", ("standard",)),
    "context_management": Parameter("rejected", "nothing is cut silently", ({}, {"edits": []})),
    "mcp_servers": Parameter("rejected", "the server calls none", ([],)),
}
EFFORT = {"output_config.effort": Parameter("upstream")}
"""A part of a parameter that has a fate of its own."""

MESSAGES: dict[str, Parameter] = {
    **_PROMPT,
    "max_tokens": Parameter("both", "required; per round; refine.max_tokens overrides it for the Follower"),
    "stream": Parameter("used"),
    "refine": Parameter("used", "the refinement itself"),
    "temperature": Parameter("both", "refine.temperature overrides it for the Follower"),
    "top_p": Parameter("both", "refine.top_p overrides it for the Follower"),
    "top_k": Parameter("both"),
    "stop_sequences": Parameter("both", "up to 16"),
    "priority": PRIORITY,
    "output_config": Parameter("both", "format; effort is an upstream's (its reasoning_effort), and a 400 without one"),
    "metadata": Parameter("ignored", "nothing is stored"),
    "service_tier": Parameter("ignored", "there is one tier"),
    "user_profile_id": Parameter("ignored", "no per-user state is kept"),
    "workspace_id": Parameter("ignored", "there are no workspaces"),
    "diagnostics": Parameter("ignored", "usage tells what the prefix cache held"),
    "inference_geo": Parameter("rejected", "the server is where it is"),
    "thread": Parameter("rejected", "nothing is stored: send the conversation in messages"),
    "container": Parameter("rejected", "there are no containers to run code in"),
}
COUNT_TOKENS: dict[str, Parameter] = {
    **_PROMPT,
    "output_config": Parameter("ignored", "it is no part of the prompt"),
    "user_profile_id": MESSAGES["user_profile_id"],
    "workspace_id": MESSAGES["workspace_id"],
}


if __name__ == "__main__":
    chosen = {"messages": MESSAGES, "count_tokens": COUNT_TOKENS}[sys.argv[1]]
    sys.stdout.writelines(f"{row}\n" for row in rows(chosen))
