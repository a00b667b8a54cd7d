"""A fake engine, for tests and for trying clients without a model. It answers by a function, as fast as it is told.

It keeps the promises of `ChatModel`: chunks (of one word), token counts (a token is a word), aborting on close, errors.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from slhf.bundle import Bundle
from slhf.wire import FinishReason, TokenLogprob, TopLogprob
from slhf_server.errors import (
    ContextLengthExceeded,
    EngineUnavailable,
    RequestError,
    TokenBudgetExceeded,
    UnknownToken,
)
from slhf_server.models.base import Chunk, SamplingParams, Turn
from slhf_server.settings.server import Settings

_LONG = 100_000  # characters
Text = str | RequestError | tuple[str, RequestError]
Said = Text | list[dict[str, Any]]
"""A text, an error, an error after a text has begun, or tool calls."""
Reply = Callable[[Sequence[Turn]], Said]
"""A function that says what to answer to these turns."""


def improve(turns: Sequence[Turn]) -> str:
    """The default reply: a first draft echoes the question, a refinement marks its draft as better."""
    if len(turns) >= 3 and turns[-2].role == "assistant":
        return f"better {turns[-2].text}"
    return f"draft of: {turns[-1].text}"


class FakeModel:
    """Implements `ChatModel`."""

    def __init__(self, name: str, reply: Reply, *, token_seconds: float, max_model_len: int) -> None:
        self.name = name
        self.calls: list[tuple[Sequence[Turn], SamplingParams]] = []
        self.running = 0
        self._reply = reply
        self._token_seconds = token_seconds
        self._max_model_len = max_model_len

    async def stream(
        self, turns: Sequence[Turn], sampling: SamplingParams, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        self.calls.append((turns, sampling))
        prompt = sum(_tokens(turn.text) for turn in turns)
        room = self._max_model_len - prompt
        if room < 1:
            raise ContextLengthExceeded(prompt, self._max_model_len)
        room = min(room, sampling.max_tokens or room)
        if sampling.max_total_tokens is not None:
            room = min(room, sampling.max_total_tokens - prompt)
        if room < 1:
            raise TokenBudgetExceeded("the prompt alone is over the budget")
        reply = self._reply(turns)
        self.running += 1
        try:
            if isinstance(reply, list):
                for chunk in _calling(reply, prompt, deltas and sampling.tools is not None):
                    yield chunk
                return
            async for chunk in self._chunks(reply, prompt, room, deltas, sampling):
                yield chunk
        finally:
            self.running -= 1

    async def _chunks(
        self, reply: Text, prompt: int, room: int, deltas: bool, sampling: SamplingParams
    ) -> AsyncGenerator[Chunk, None]:
        logprobs = sampling.logprobs
        text, error = _taken_apart(reply)
        text, stop = _stopped(text, sampling.stop)
        words = [word if i == 0 else f" {word}" for i, word in enumerate(text.split(" "))]
        reason: FinishReason = "stop" if len(words) <= room else "length"
        words, stop = words[:room], stop if reason == "stop" else None
        if not deltas:
            await asyncio.sleep(self._token_seconds * len(words))
        for word in words if deltas else ():
            await asyncio.sleep(self._token_seconds)
            yield Chunk(word, 1, prompt, logprobs=_logprobs([word], logprobs))
        if error is not None:
            raise error
        if deltas:
            yield Chunk("", 0, prompt, finish_reason=reason, stop_sequence=stop)
        else:
            last = Chunk("".join(words), len(words), prompt, finish_reason=reason, stop_sequence=stop)
            yield replace(last, logprobs=_logprobs(words, logprobs))


def _calling(calls: Sequence[dict[str, Any]], prompt: int, deltas: bool) -> Iterator[Chunk]:
    """The calls whole, or in pieces: id and name first, then the arguments, word by word."""
    if not deltas:
        yield Chunk("", 1, prompt, finish_reason="tool_calls", tool_calls=tuple(calls))
        return
    for index, call in enumerate(calls):
        function = call["function"] | {"arguments": ""}
        yield Chunk("", 1, prompt, call_deltas=({"index": index, **call, "function": function},))
        for word in re.findall(r"\s*\S+", call["function"]["arguments"]):
            yield Chunk("", 1, prompt, call_deltas=({"index": index, "function": {"arguments": word}},))
    yield Chunk("", 0, prompt, finish_reason="tool_calls")


def _tokens(text: str) -> int:
    """How many words there are; of a long text about as many, because splitting it would hold the event loop."""
    return len(text.split()) if len(text) < _LONG else text.count(" ") + 1


def _stopped(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The text up to the first of the stop strings, and which one that is."""
    found = min((stop for stop in stops if stop and stop in text), key=text.index, default=None)
    return (text, None) if found is None else (text[: text.index(found)], found)


def _taken_apart(reply: Text) -> tuple[str, RequestError | None]:
    if isinstance(reply, tuple):
        return reply
    return (reply, None) if isinstance(reply, str) else ("", reply)


def _logprobs(words: Sequence[str], wanted: int | None) -> tuple[TokenLogprob, ...]:
    """A token's log-probability is minus its length; each of the likeliest in its place is the token itself."""
    if wanted is None:
        return ()
    best = [{"token": word, "logprob": -float(len(word)), "bytes": list(word.encode())} for word in words]
    return tuple(TokenLogprob(**one, top_logprobs=[TopLogprob(**one)] * wanted) for one in best)


class FakeTokenizer:
    """Implements `Tokenizer`: a word is a token, with the space before it, and a chat is its turns' words."""

    def __init__(self) -> None:
        self._ids = {"<s>": 0}

    def chat_ids(
        self, turns: Sequence[Turn], most: int, *, generation_prompt: bool = True, special_tokens: bool = False
    ) -> list[int]:
        return self.text_ids(" ".join(turn.text for turn in turns), most, special_tokens=special_tokens)

    def count(self, turns: Sequence[Turn], most: int, tools: Sequence[Mapping[str, Any]] = ()) -> int:
        texts = [*(turn.text for turn in turns), *map(json.dumps, tools)]
        return sum(len(self.text_ids(text, most, special_tokens=False)) for text in texts)

    def text_ids(self, text: str, most: int, *, special_tokens: bool) -> list[int]:
        words = re.findall(r"\s*\S+", text)
        if len(words) > most:
            raise ContextLengthExceeded(len(words), most)
        ids = [self._ids.setdefault(word, len(self._ids)) for word in words]
        return [0, *ids] if special_tokens else ids

    def tokens(self, ids: Sequence[int]) -> list[str]:
        words = list(self._ids)
        return [words[token_id] if token_id < len(words) else "" for token_id in ids]

    def text(self, ids: Sequence[int]) -> str:
        words = self.tokens(ids)
        if "" in words:
            raise UnknownToken(ids, words)
        return "".join(words)


class FakeEngine:
    """Implements `OwnEngine`."""

    def __init__(
        self,
        reply: Reply = improve,
        *,
        token_seconds: float = 0.0,
        max_model_len: int = 4096,
        calls_tools: bool = False,
        template_options: Collection[str] = (),
    ) -> None:
        self.calls_tools = calls_tools
        self.template_options = template_options
        self.manifest = Bundle(name="fake", revision="0", trained="no")
        self.max_model_len = max_model_len
        self.tokenizer = FakeTokenizer()
        self.leader = FakeModel("fake", reply, token_seconds=token_seconds, max_model_len=max_model_len)
        self.follower = FakeModel("fake", reply, token_seconds=token_seconds, max_model_len=max_model_len)
        self.dead = False
        self.asleep = False
        self.sleep_obstacle: str | None = None
        self.was_shut_down = False

    async def open(self, settings: Settings) -> "FakeEngine":
        """The `open_engine` for `create_app`."""
        return self

    async def sleep(self) -> None:
        assert not self.leader.running + self.follower.running, "it is put to sleep in the middle of a completion"
        self.asleep = True

    async def wake_up(self) -> None:
        self.asleep = False

    def check(self) -> None:
        if self.dead:
            raise EngineUnavailable("the engine has died")

    def shutdown(self) -> None:
        self.was_shut_down = True
