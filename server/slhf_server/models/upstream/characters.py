"""Puts characters together whose halves (UTF-16 surrogates) JSON has written apart."""

import re

HALF = re.compile("[\ud800-\udfff]")


def whole_characters(text: str) -> str:
    """The text with halves of characters put together, and U+FFFD for a half that stands alone."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if HALF.search(text) else text
