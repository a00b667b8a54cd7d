"""What the typed events of OpenAI's responses and of Anthropic's messages have in common: when each part is written."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from slhf.wire import RoundDelta
from slhf_server.api.error_handlers import Names
from slhf_server.api.results import speaks
from slhf_server.models.reasoning import is_blank
from slhf_server.refinement.job import Job
from slhf_server.refinement.loop import RefinementEvent
from slhf_server.refinement.state import RefinementResult


class TypedEvents(ABC):
    """Renders an answer as its start, its parts one after the other, each in pieces, and its end.

    A part is the text, a call of a tool or an earlier round. Implements `Renderer` but for `error`.
    """

    def __init__(self, job: Job, names: Names) -> None:
        self.names = names
        self._job = job
        self._begun = False
        self._text = ""  # what was sent of the answer's text
        self._calling = False  # whether pieces of tool calls were sent

    def event(self, number: int, event: RefinementEvent) -> list[bytes]:
        frames = [] if self._begun else self._opening()
        self._begun = True
        if isinstance(event, RoundDelta):
            return frames + self._piece(event)
        return frames + (self._ending(event) if isinstance(event, RefinementResult) else [])

    def end(self) -> list[bytes]:
        return []

    def _piece(self, piece: RoundDelta) -> list[bytes]:
        if not (piece.tool_calls or self._calling):
            return self._say(piece.delta) if self._job.answers_with(piece.round) else self._thought(piece)
        # What the turn says behind a call comes at the end, because nothing may interrupt a call.
        frames = [] if self._calling or not piece.delta else self._say(piece.delta)
        self._calling = True
        for call in piece.tool_calls:
            frames += self._called(call["index"], call)
        return frames

    def _say(self, text: str) -> list[bytes]:
        self._text += text
        return self._said(text)

    def _rest(self, result: RefinementResult) -> list[bytes]:
        """What was not yet sent of the answer's text: all, where no round was streamed as the answer."""
        missing = result.text.removeprefix(self._text)
        return self._say(missing) if not is_blank(missing) or (speaks(result) and not self._calling) else []

    @abstractmethod
    def _opening(self) -> list[bytes]:
        """The start of the answer."""

    @abstractmethod
    def _said(self, text: str) -> list[bytes]:
        """A piece of the answer's text, which may be empty."""

    @abstractmethod
    def _called(self, index: int, call: Mapping[str, Any]) -> list[bytes]:
        """A piece of a call: the first has id and name."""

    def _thought(self, piece: RoundDelta) -> list[bytes]:
        """A piece of a round before the answer: nothing, unless the interface has a place for it."""
        return []

    @abstractmethod
    def _ending(self, result: RefinementResult) -> list[bytes]:
        """What is not sent yet, and the end of the answer."""
