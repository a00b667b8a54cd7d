"""Reads from each provider's format why it refused a request (400, 413, 422), and which fields of ours it names.

None of its text is kept. Fields are named only if they were sent, so a message of ours can show them.
"""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

MOST_BYTES = 64 << 10
"""How much of a refusal's body is read."""
_TOO_LONG = re.compile(
    r"context_length|context[ _](length|window|size)|prompt is too long|input is too long"
    r"|input token count.{0,40}exceeds|exceeded model token limit|too many input tokens",
    re.IGNORECASE,
)
"""OpenAI's code, and the words of vLLM, Mistral, llama.cpp, Anthropic, Bedrock, Gemini, Moonshot and others."""
_UNKNOWN = re.compile(
    r"unknown|unsupported|unrecognized|unexpected|not (supported|permitted|allowed|recognized|implemented|accepted)"
    r"|extra[_ ](forbidden|inputs?|fields?)|additional propert|cannot find|no such|forbidden|disallowed"
    r"|(doesn.t|does not) (support|recognize|accept|exist)|invalid (field|parameter|argument)|must be verified",
    re.IGNORECASE,
)
"""Words that refuse the field itself, and not its value."""
_NO_COMPLAINT = re.compile(
    r"expected one of|valid (fields|parameters|options)|instead|supported (fields|parameters) are|[\"']input[\"']:",
    re.IGNORECASE,
)
"""Words after which a message lists what the upstream does know, or repeats the request."""
_SAID = set(
    "message msg detail details error errors description title code type status fieldViolations issues params".split()
)
"""Keys whose texts speak about the request. Other keys repeat it (`input`), or say nothing of use."""
_POINTERS = set("param parameter field property argument additionalProperty loc path keys".split())
"""Keys whose value is the way to a field: OpenAI's, Google's, pydantic's, ajv's and zod's."""
_ALWAYS = ("model", "messages")
"""Words of nearly every message: they count only where the format names fields."""
_NAMED = r"(parameter|argument|field|key|permitted|supplied)s?\W{1,3}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an upstream has refused."""

    fields: frozenset[str] = frozenset()
    """Top-level fields of the request's body."""
    unknown: bool = False
    """Whether the upstream does not take these fields at all, whatever their value."""
    too_long: bool = False
    """Whether the conversation is longer than the model's context."""


NOTHING_SAID = Refusal()


def read_refusal(content: object, sent: Collection[str]) -> Refusal:
    """What an upstream has refused; an answer that does not tell names no field.

    `content` is the body's bytes, or what its JSON holds; `sent` are the names of the request's fields.
    """
    text = content[:MOST_BYTES].decode(errors="replace") if isinstance(content, bytes) else ""
    body = _json(text) if isinstance(content, bytes) else content
    said = [text] if body is None else list(_texts(body))
    named = set(_named(body, sent)) or {name for name in sent if any(_speaks_of(one, name) for one in said)}
    return Refusal(frozenset(named), any(map(_UNKNOWN.search, said)), any(map(_TOO_LONG.search, said)))


def _json(text: str) -> Any:
    """The JSON's value; None where it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _named(body: Any, sent: Collection[str]) -> Iterator[str]:
    """Yield the fields that the format itself names.

    Azure and Mistral put such an object into another one, or its JSON into the message.
    """
    for key, value in _items(body):
        if key in _POINTERS:
            way = re.split(r"\W+", value) if isinstance(value, str) else value if isinstance(value, list) else []
            yield from [part for part in way if isinstance(part, str) and part in sent][:1]


def _texts(body: Any) -> Iterator[str]:
    if isinstance(body, str):
        yield body
    for key, value in _items(body):
        if key in _SAID:
            yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str))


def _items(body: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value at every depth, in JSON within texts, too, but not in what repeats the request."""
    pending = [body]
    while pending:
        value = pending.pop()
        if isinstance(value, str) and value[:1] in ("{", "["):
            value = _json(value)
        if isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            yield from value.items()
            pending += [inner for key, inner in value.items() if key in _SAID]


def _speaks_of(text: str, name: str) -> bool:
    """Whether a message names the field: by a name that is no ordinary word, or in quotes, before a colon or after a
    word for it."""
    text = _NO_COMPLAINT.split(text)[0]
    word = rf"(?<![\w.]){name}(?!\w)"
    if "_" in name:
        return re.search(word, text) is not None
    if name in _ALWAYS or not _UNKNOWN.search(text):
        return False
    return re.search(rf"[\"'`]{word}[\"'`.]|^{word}:|{_NAMED}{word}", text, re.MULTILINE) is not None
