"""What a vLLM engine has generated, piece by piece, as chunks: for the one in this process and a server's alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from slhf.turns import OPEN_THOUGHT
from slhf.wire import FinishReason, TokenLogprob
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.errors import BadRequest, EngineFailed, EngineUnavailable
from slhf_server.models.base import Chunk, SamplingParams

_FINISHED: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a completion in vLLM's terms."""

    text: str
    token_ids: Sequence[int]
    """All that were generated, the one that ended the completion too."""
    prompt_tokens: int
    cached_tokens: int = 0
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    """The stop string or token that ended the completion; None also where its end-of-text token did."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each token, where they were asked for."""
    accepted_tokens: int = 0
    rejected_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """What of a completion's piece is text, and what calls tools."""

    text: str = ""
    calls: tuple[Mapping[str, Any], ...] = ()
    """OpenAI's calls, or pieces of them, each with its `index`."""


class Reader(Protocol):
    """What reads tool calls, and thoughts of other families, in one completion (parsing.py)."""

    def piece(self, text: str, ids: Sequence[int], *, finished: bool) -> Said:
        """Read the next piece; `ids` are its tokens."""

    def whole(self, text: str, ids: Sequence[int]) -> Said:
        """Read a whole completion."""


@dataclass(slots=True)
class Completion:
    """What one completion has said so far."""

    encoder: PromptEncoder
    sampling: SamplingParams
    opened: bool
    """Whether the template has already opened `<think>`, which is then put back in front of the text."""
    reader: Reader | None = None
    deltas: bool = True
    """Whether the completion comes in pieces."""
    text: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    calls: list[Mapping[str, Any]] = field(default_factory=list)
    """OpenAI's calls: whole ones, or the pieces that were said."""

    def chunk(self, piece: Piece) -> Chunk:
        """The next chunk. Raises EngineFailed, EngineUnavailable and BadRequest for an end that is none."""
        said = self._said(piece)
        text = OPEN_THOUGHT + said.text if self.opened and not self.text else said.text
        self.text.append(text)
        self.ids += piece.token_ids
        finish_reason = None if piece.finish_reason is None else self._finish_reason(piece)
        whole = None if finish_reason is None else "".join(self.text)
        return Chunk(
            text=text,
            completion_tokens=len(piece.token_ids),
            prompt_tokens=piece.prompt_tokens,
            cached_tokens=piece.cached_tokens,
            finish_reason=finish_reason,
            stop_sequence=piece.stop_reason if isinstance(piece.stop_reason, str) else None,
            accepted_tokens=piece.accepted_tokens,
            rejected_tokens=piece.rejected_tokens,
            token_ids=None if whole is None else self.encoder.faithful(self._shown(piece, self.ids), whole),
            reasoning_tokens=0 if whole is None else self.encoder.reasoning_tokens(self.ids, whole),
            logprobs=piece.logprobs[: len(self._shown(piece, piece.token_ids))],
            tool_calls=() if self.deltas else tuple(map(_without_index, said.calls)),
            call_deltas=said.calls if self.deltas else (),
        )

    def _said(self, piece: Piece) -> Said:
        """The piece's text and calls."""
        if self.reader is None:
            return Said(piece.text)
        if self.deltas:
            said = self.reader.piece(piece.text, piece.token_ids, finished=piece.finish_reason is not None)
        else:
            said = self.reader.whole(piece.text, piece.token_ids)
        self.calls += said.calls
        return said

    def _shown(self, piece: Piece, ids: Sequence[int]) -> Sequence[int]:
        """The ids without the token that ended the completion, if one did and the text does not include it; OpenAI does
        not list its log-probability either."""
        ended_by_token = piece.finish_reason == "stop" and not isinstance(piece.stop_reason, str)
        return ids[:-1] if ended_by_token and not self.sampling.include_stop_str_in_output else ids

    def _finish_reason(self, piece: Piece) -> FinishReason:
        reason = piece.finish_reason or ""
        if reason == "abort":
            raise EngineUnavailable("the engine is shutting down")
        structure, nothing = self.sampling.structure, not any(self.text) and not self.calls
        if structure is not None and (reason == "error" or (reason == "stop" and nothing)):
            raise BadRequest(f"{structure.param}: no text can be written under this schema", param=structure.param)
        if reason not in _FINISHED:
            raise EngineFailed(f"the engine ended this completion with {reason!r}")
        return "tool_calls" if reason == "stop" and self.calls else _FINISHED[reason]


def _without_index(call: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in call.items() if key != "index"}
