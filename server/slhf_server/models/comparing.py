"""A Follower that compares a draft with answers of its own, which it has written before it sees the draft.

Its model writes them as the Leader, all at once, because a batch takes less time than one after the other. Under the
draft they would not be its own: a model beside a draft, or beside an answer of its own, copies it. They stand in the
Follower's turn (slhf/turns.py), where nobody but the Follower reads them: they are thoughts, and are counted as such.
What it has to say may be no more than the results that it reads in all of them. Then these are counted, and one of its
own answers takes the draft's place or none does (slhf/readings.py).

A program looks at what the prompt asks for, too (requirements/). No own answer takes the draft's place that misses
what the draft meets. A draft that misses something does not stay at a first look. Where the Follower would leave it as
it is, the first own answer that meets all takes its place. What the Follower writes itself stands. The examples that a
prompt gives of a program are asked for, too, where the server runs programs: each text's is run on them first, and
where the draft's fails and another one passes, the Follower is not asked. Own answers are written without the
characters that the prompt forbids, and where the draft misses something they may be as long as any answer, because one
of them is then to stand in its place.

Own answers cost the most of a round. So a bundle may have none written to a draft that states no result, because there
is nothing to compare and the draft stays. And it may have the Follower look at the draft alone first, because of a
program, say, it knows without own answers that it stays (measured: docs/experiments/first-look.md).

Where a request gives the Follower an instruction, there is nothing to compare: its own answers would not follow it. The
model then has the draft and the instruction alone before it.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from slhf import Bundle, OwnAnswers
from slhf.readings import STAYS, Readings, states_result
from slhf.turns import CLOSE_THOUGHT, OPEN_THOUGHT, follower_turn, with_own_answers
from slhf_server.errors import BadRequest, ContextLengthExceeded, TokenBudgetExceeded
from slhf_server.models.base import ChatModel, Chunk, SamplingParams, Turn, request_of
from slhf_server.models.reasoning import lone_thoughts
from slhf_server.models.requirements.examples import Examples, examples
from slhf_server.models.requirements.readers import requirements
from slhf_server.models.requirements.requirement import Checkable, loses, meets, misses, pattern_of
from slhf_server.models.requirements.running import Sandbox
from slhf_server.models.whole import answer_of, at_once, whole

_SEEDS = 2**63
_LOOK_TOKENS = 16
"""What the thought that the draft stays takes, and a little more: a Follower that says more writes own answers."""


def comparing(leader: ChatModel, follower: ChatModel, bundle: Bundle, sandbox: Sandbox | None = None) -> ChatModel:
    """The Follower as the bundle wants it: one that compares, or the model itself."""
    if bundle.own_answers is None:
        return follower
    return ComparingFollower(leader, follower, bundle.own_answers, follower_turn(bundle.follower_turn), sandbox)


@dataclass(frozen=True, slots=True)
class ComparingFollower:
    """Implements `ChatModel` for turns that end with a draft and the Follower's turn."""

    leader: ChatModel
    follower: ChatModel
    how: OwnAnswers
    turn: str
    """The Follower's turn without a request's instruction."""
    sandbox: Sandbox | None = None
    """For programs. None: none are run."""

    @property
    def name(self) -> str:
        return self.follower.name

    def stream(
        self, turns: Sequence[Turn], sampling: SamplingParams, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        model = self._compared if turns[-1].text == self.turn else self.follower.stream
        return model(turns, sampling, request_id=request_id, deltas=deltas)

    async def _compared(
        self, turns: Sequence[Turn], sampling: SamplingParams, *, request_id: str, deltas: bool
    ) -> AsyncGenerator[Chunk, None]:
        *conversation, draft, asking = turns
        asked = await self._asked(conversation, sampling)
        await self._run(asked, [draft.text])
        # A draft does not stay unread where it misses what is asked for, or may not have the structure that is.
        missing = await asyncio.to_thread(misses, asked, draft.text) if asked else False
        may_stay = sampling.structure is None and not missing
        look = await self._looked(turns, sampling, request_id) if may_stay else None
        if look is not None and _stays(look):
            yield look
            return
        before = [] if look is None else [look]
        if look is not None:  # it is spent, whatever becomes of the own answers
            yield Chunk("", look.completion_tokens, look.prompt_tokens, look.cached_tokens)
        looked = _Spent(before)
        written = await self._written(conversation, _less(sampling, looked), request_id, asked, missing)
        spent = _Spent([*before, *written])
        yield Chunk("", spent.completion - looked.completion, spent.prompt, spent.cached)
        own = [answer for chunk in written if (answer := answer_of(chunk))]
        await self._run(asked, [answer.text for answer in own])
        proven = await asyncio.to_thread(_proven, own, draft.text, asked) if missing else None
        if proven is not None:
            yield _alone(proven, spent)
            return
        sampling = _less(sampling, spent)
        shown = [*own]
        while True:
            turn = replace(asking, text=with_own_answers(asking.text, [answer.text.strip() for answer in shown]))
            chunks = self.follower.stream([*conversation, draft, turn], sampling, request_id=request_id, deltas=deltas)
            said: list[str] = []
            try:
                async with aclosing(chunks):
                    async for chunk in chunks:
                        said.append(chunk.text)
                        chunk = spent.before(chunk)
                        if chunk.finish_reason == "stop":
                            seen = "".join(said), shown
                            taken = await asyncio.to_thread(_taken, *seen, own if missing else (), draft.text, asked)
                            chunk = chunk if taken is None else _with(chunk, taken)
                        yield chunk
                return
            except (ContextLengthExceeded, TokenBudgetExceeded):  # which come before the first token
                if not shown:
                    raise
                shown.pop()

    async def _asked(self, conversation: Sequence[Turn], sampling: SamplingParams) -> tuple[Checkable, ...]:
        """What the prompt asks for. It is read in a thread, because hostile texts would hold the event loop."""
        if sampling.structure is not None:
            return ()
        request = request_of(conversation)
        asked = await asyncio.to_thread(requirements, request)
        given = await asyncio.to_thread(examples, request) if self.sandbox is not None else None
        return asked if given is None else (*asked, given)

    async def _run(self, asked: Sequence[Checkable], texts: Sequence[str]) -> None:
        """Run the texts' programs on the prompt's examples, if there are any."""
        for one in asked:
            if isinstance(one, Examples) and self.sandbox is not None:
                await one.look(self.sandbox, texts)

    async def _looked(self, turns: Sequence[Turn], sampling: SamplingParams, request_id: str) -> Chunk | None:
        """What is thought of the draft alone; None: nothing."""
        if self.how.only_results and not states_result(turns[-2].text):
            return Chunk(f"{OPEN_THOUGHT}\n{STAYS}\n{CLOSE_THOUGHT}", 0, finish_reason="stop")  # a program thinks so
        if not self.how.first_look:
            return None
        return await whole(self.follower, turns, _looking(sampling), f"{request_id}-look")

    async def _written(
        self,
        turns: Sequence[Turn],
        sampling: SamplingParams,
        request_id: str,
        asked: Sequence[Checkable],
        missing: bool,
    ) -> list[Chunk]:
        """The own answers, each as one chunk. `missing`: whether the draft misses something of what is asked for."""
        most = None if missing else self.how.max_tokens
        pattern = pattern_of(asked)
        try:
            return await self._sampled(turns, replace(sampling, pattern=pattern), request_id, most)
        except BadRequest:
            if pattern is None:
                raise
            # An engine may know no grammars. Nobody asked for one, so the answers are written without.
            return await self._sampled(turns, sampling, request_id, most)

    async def _sampled(
        self, turns: Sequence[Turn], sampling: SamplingParams, request_id: str, most: int | None
    ) -> list[Chunk]:
        return await at_once(
            whole(self.leader, turns, self._sampling(sampling, number, most), f"{request_id}-own-{number}")
            for number in range(self.how.count)
        )

    def _sampling(self, asked: SamplingParams, number: int, most: int | None) -> SamplingParams:
        """At the bundle's temperature, whatever the request says: without any all of them would be the same one."""
        seed = 0 if asked.temperature == 0 and asked.seed is None else asked.seed  # temperature 0 stays deterministic
        budget = asked.max_total_tokens
        return SamplingParams(
            temperature=self.how.temperature,
            max_tokens=min(filter(None, (most, asked.max_tokens)), default=None),
            max_total_tokens=None if budget is None else budget // (self.how.count + 1),
            stop=asked.stop,
            seed=None if seed is None else (seed + 1 + number) % _SEEDS,
            logprobs=asked.logprobs,
            structure=asked.structure,
            pattern=asked.pattern,
            cache_salt=asked.cache_salt,
            priority=asked.priority,
            template_options=asked.template_options,
        )


def _stays(look: Chunk) -> bool:
    return look.finish_reason == "stop" and (lone_thoughts(look.text) or "").strip() == STAYS


def _looking(asked: SamplingParams) -> SamplingParams:
    return replace(asked, max_tokens=min(_LOOK_TOKENS, asked.max_tokens or _LOOK_TOKENS), min_tokens=None)


class _Spent:
    """What a first look and the own answers have cost, as a part of the round that they are written for."""

    def __init__(self, written: Sequence[Chunk]) -> None:
        self.completion = sum(chunk.completion_tokens for chunk in written)
        self.prompt = sum(chunk.prompt_tokens for chunk in written)
        self.cached = sum(chunk.cached_tokens for chunk in written)
        self._accepted = sum(chunk.accepted_tokens for chunk in written)
        self._rejected = sum(chunk.rejected_tokens for chunk in written)

    @property
    def total(self) -> int:
        return self.completion + self.prompt

    def before(self, chunk: Chunk) -> Chunk:
        """The Follower's own chunk, with the tokens that came before it. A round's last chunk tells what it thought."""
        chunk = replace(
            chunk,
            prompt_tokens=chunk.prompt_tokens + self.prompt,
            cached_tokens=chunk.cached_tokens + self.cached,
        )
        if chunk.finish_reason is None:
            return chunk
        return replace(
            chunk,
            reasoning_tokens=chunk.reasoning_tokens + self.completion,
            accepted_tokens=chunk.accepted_tokens + self._accepted,
            rejected_tokens=chunk.rejected_tokens + self._rejected,
        )


def _less(sampling: SamplingParams, spent: _Spent) -> SamplingParams:
    """With what is left of the budget."""
    budget = sampling.max_total_tokens
    return sampling if budget is None else replace(sampling, max_total_tokens=budget - spent.total)


def _proven(own: Sequence[Chunk], draft: str, asked: Sequence[Checkable]) -> Chunk | None:
    """The first own answer that meets all, where the draft's program fails its prompt's examples: nobody is asked."""
    if not any(isinstance(one, Examples) and one.missed(draft) for one in asked):
        return None
    return next((answer for answer in own if meets(asked, answer.text)), None)


def _alone(answer: Chunk, spent: _Spent) -> Chunk:
    """An own answer as the whole of the round, whose tokens have been told of before."""
    last = Chunk(answer.text, 0, finish_reason="stop", logprobs=answer.logprobs, proven=True)
    last = spent.before(last)
    return replace(last, reasoning_tokens=last.reasoning_tokens - answer.completion_tokens)


def _taken(
    said: str, shown: Sequence[Chunk], others: Sequence[Chunk], draft: str, asked: Sequence[Checkable]
) -> Chunk | None:
    """The own answer that takes the draft's place; None: none does, or the Follower has written a text itself.

    `shown`: what it has read. `others`: of which one may take its place because it meets all that is asked for.
    """
    thoughts = lone_thoughts(said)
    if thoughts is None:
        return None
    for answer in _preferred(thoughts, shown, draft):
        if not loses(asked, draft, answer.text):
            return answer
    return next((answer for answer in others if meets(asked, answer.text)), None)


def _preferred(thoughts: str, own: Sequence[Chunk], draft: str) -> list[Chunk]:
    """The own answers with the result that is to replace the draft's, by what the Follower has read in all of them."""
    readings = Readings.parse(thoughts)
    if readings is None or len(readings.own) != len(own):
        return []
    readings = readings.heard(draft, [answer.text for answer in own])
    if readings is None or readings.chosen is None:
        return []
    chosen = readings.own[readings.chosen]
    return [answer for answer, result in zip(own, readings.own, strict=True) if result == chosen]


def _with(chunk: Chunk, answer: Chunk) -> Chunk:
    """The round's last chunk with the own answer that is its text, which was counted among the thoughts before."""
    return replace(
        chunk,
        text=f"{chunk.text}{answer.text}",
        reasoning_tokens=chunk.reasoning_tokens - answer.completion_tokens,
        logprobs=(*chunk.logprobs, *answer.logprobs),
    )
