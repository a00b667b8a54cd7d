"""Reads an answer's bytes as JSON values: a single one, or one for each server-sent event.

The bytes say which it is, and not the content type, because servers answer with the one where the other was asked for.
What is kept of the bytes is bounded, so that no upstream can fill the memory.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

from slhf.sse import Decoder, ServerSentEvent
from slhf_server.models.upstream.answer import UnusableAnswer

_MOST_BYTES = 64 << 20
"""The limit of a whole answer, decompressed. In ten minutes few models stream a quarter of it."""
_MOST_PLAIN_BYTES = 16 << 20
"""The limit of an answer in one piece of JSON."""
_MOST_EVENT_BYTES = 4 << 20
"""The limit of a single event."""


class Values:
    """Feed it the answer's bytes, cut anywhere; it hands out each JSON value once it is whole.

    Raises UnusableAnswer for too many bytes, ValueError and RecursionError for what is no JSON.
    """

    done = False
    """Whether `[DONE]` has come: nothing of interest follows."""

    def __init__(self) -> None:
        self._size = 0
        self._unfinished = 0
        self._plain = bytearray()
        self._events: Decoder | None = None

    def feed(self, data: bytes) -> list[Any]:
        self._bound("the answer", self._size + len(data), _MOST_BYTES)
        self._size += len(data)
        if self._events is None:
            if not self._plain:
                data = data.lstrip(b"\xef\xbb\xbf \t\r\n")  # lines that keep a connection alive stand before JSON, too
            if not data:
                return []
            if self._plain or data.startswith((b"{", b"[")):
                self._bound("the answer in one piece", len(self._plain) + len(data), _MOST_PLAIN_BYTES)
                self._plain += data
                return []
            self._events = Decoder()
        events = self._events.feed(data)
        self._unfinished = 0 if events else self._unfinished + len(data)
        self._bound("an event", self._unfinished, _MOST_EVENT_BYTES)
        return list(self._values(events))

    def end(self) -> list[Any]:
        """The values that the end of the bytes completes."""
        if self._events is not None:
            return list(self._values(self._events.feed(b"\n\n")))  # the last event's blank line may be missing
        return [_json(bytes(self._plain))]

    def _values(self, events: list[ServerSentEvent]) -> Iterator[Any]:
        for event in events:
            if event.data.startswith("[DONE]"):
                self.done = True
                return
            if event.data:
                yield _json(event.data)

    @staticmethod
    def _bound(what: str, size: int, most: int) -> None:
        if size > most:
            raise UnusableAnswer(f"{what} has more than {most} bytes")


def _json(data: str | bytes) -> Any:
    """The JSON's value. NaN and infinity, which some servers write as log-probabilities, are read as null."""
    return json.loads(data, parse_constant=lambda _: None, parse_float=_finite)


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None
