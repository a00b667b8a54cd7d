"""Decodes server-sent events as their bytes arrive, by the rules of the WHATWG HTML standard, section 9.2.6.

`id` and `retry` fields are ignored, because a refinement is never resumed by reconnecting.
"""

import codecs
import re
from dataclasses import dataclass

_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class ServerSentEvent:
    """One event of a stream."""

    event: str
    """The `event` field; "message" where the server names none."""
    data: str
    """The `data` lines, joined by a newline."""


class Decoder:
    """Feed it the bytes of one stream, cut anywhere; it hands out each event once its blank line has come."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._line: list[str] = []
        """Pieces of the unfinished line. They are joined once, so that a long line in small chunks costs no more."""
        self._after_cr = False
        self._event = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that this chunk completes."""
        text = self._utf8.decode(chunk)
        if not text:
            return []
        if self._after_cr:  # the line ended with the last chunk; this would be the other half of its CRLF
            text = text.removeprefix("\n")
        self._after_cr = text.endswith("\r")
        first, *others = _LINE_END.split(text)
        self._line.append(first)
        if not others:
            return []
        lines = ["".join(self._line), *others[:-1]]
        self._line = [others[-1]]
        return [event for line in lines if (event := self._take(line)) is not None]

    def _take(self, line: str) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")  # a comment is a line with an empty field
        value = value.removeprefix(" ")
        if field == "event":
            self._event = value
        elif field == "data":
            self._data.append(value)
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        event = ServerSentEvent(self._event or "message", "\n".join(self._data)) if self._data else None
        self._event, self._data = "", []
        return event
