"""Which clients run, in which environment, and what each of them checks."""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "clients" / "examples"

NEWEST = HERE / "requirements-newest.txt"
OPENAI_2 = HERE / "requirements-openai-2.txt"
LITELLM = HERE / "requirements-litellm-proxy.txt"
NODE = HERE / "package-newest.json"
NODE_BEFORE = HERE / "package-before.json"  # the line before each

SERVED = {"chat", "responses", "completions", "messages", "refine"}  # the endpoints that the checks are run against


@dataclass(frozen=True)
class Client:
    name: str
    environment: Path  # a list of requirements, or a package-*.json
    file: Path
    parts: tuple[str, ...] = ()  # endpoints, checked in a process each; an example has none and only has to end well
    with_slhf: bool = False  # whether slhf is installed beside it, without what it depends on


CLIENTS = [
    Client("openai 3 for Python", NEWEST, HERE / "check_openai.py", ("chat", "responses", "completions")),
    Client("openai 2 for Python", OPENAI_2, HERE / "check_openai.py", ("chat", "responses", "completions")),
    Client("openai 7 for Node", NODE, HERE / "check_openai.mjs", ("chat", "responses", "completions")),
    Client("openai 6 for Node", NODE_BEFORE, HERE / "check_openai.mjs", ("chat", "responses", "completions")),
    Client("AI SDK 7 (ai, @ai-sdk/openai-compatible)", NODE, HERE / "check_ai_sdk.mjs", ("chat", "completions")),
    Client("AI SDK 6 (ai, @ai-sdk/openai-compatible)", NODE_BEFORE, HERE / "check_ai_sdk.mjs", ("chat", "completions")),
    Client("anthropic", NEWEST, HERE / "check_anthropic.py", ("messages",)),
    Client("langchain-openai", NEWEST, HERE / "check_langchain.py", ("chat", "responses", "completions")),
    Client("litellm", NEWEST, HERE / "check_litellm.py", ("chat", "responses", "completions")),
    Client("LiteLLM proxy (our guardrail)", LITELLM, HERE / "check_litellm_proxy.py", ("refine",), with_slhf=True),
    Client("llm", NEWEST, HERE / "check_llm.py", ("chat", "responses", "completions")),
    Client("pydantic-ai", NEWEST, HERE / "check_pydantic_ai.py", ("chat", "responses")),
    Client("OpenAI Agents SDK", NEWEST, HERE / "check_agents.py", ("chat", "responses")),
    Client("example openai_chat.py", NEWEST, EXAMPLES / "openai_chat.py"),
    Client("example langchain_chat.py", NEWEST, EXAMPLES / "langchain_chat.py"),
    Client("example node.mjs", NODE, EXAMPLES / "node.mjs"),
]
