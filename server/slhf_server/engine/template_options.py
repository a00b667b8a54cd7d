"""Which variables of a chat template a request may set (`chat_template_kwargs`)."""

from jinja2 import meta
from jinja2.defaults import DEFAULT_NAMESPACE
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from vllm.renderers.hf import AssistantTracker

_SET_ELSEWHERE = {"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"}


def template_options(template: str) -> frozenset[str]:
    """The names that the template reads, without those that transformers, the tokenizer and the server set."""
    environment = ImmutableSandboxedEnvironment(extensions=[AssistantTracker, loopcontrols])
    read = meta.find_undeclared_variables(environment.parse(template))
    return frozenset(
        name for name in read - _SET_ELSEWHERE - DEFAULT_NAMESPACE.keys() if not name.endswith(("_token", "_tokens"))
    )
