"""Hides in logs and messages every value that is, or by its name may be, a secret."""

import re
from typing import Any

HIDDEN = "***"
_SECRET = (
    "(?:token|key|passw(?:or)?d|passphrase|pwd|(?<![a-z])pass|secret|credential|authorization|auth|cookie|header)s?"
)
_NAME = re.compile(f"{_SECRET}$", re.IGNORECASE)
_IN_TEXT = (
    (re.compile(r"(?<=//)[^/\s]*@|[^/\s:]*:[^/\s]*@"), f"{HIDDEN}@"),  # user and password of an address
    (re.compile(r"(://[^?#\s]*)[?#]\S*"), rf"\1?{HIDDEN}"),  # its query and fragment
    (re.compile(r"\b(Bearer|Basic) +\S+", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(rf"({_SECRET}[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&}}]+", re.IGNORECASE), rf"\1{HIDDEN}"),
)


def is_secret(name: str) -> bool:
    """Whether a setting of this name is likely to hold a secret."""
    return _NAME.search(name) is not None


def without_secrets(value: Any) -> Any:
    """The value with `***` for secrets: values under such a name, and parts of addresses and headers."""
    if isinstance(value, str):
        return _without_secrets(value)
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: HIDDEN if _is_hidden(str(name), item) else without_secrets(item) for name, item in value.items()}


def _is_hidden(name: str, value: Any) -> bool:
    counted = isinstance(value, int) and name.lower().endswith("tokens")  # max_num_batched_tokens
    return is_secret(name) and not counted and value is not None and not isinstance(value, bool)


def _without_secrets(text: str) -> str:
    for pattern, shown in _IN_TEXT:
        text = pattern.sub(shown, text)
    return text
