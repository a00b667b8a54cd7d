"""A Follower that compares a draft with answers of its own, which it has written before it sees the draft.

Its model writes them as the Leader, all at once, because a batch takes less time than one after the other. Under the
draft they would not be its own: a model beside a draft, or beside an answer of its own, copies it. They stand in the
Follower's turn (slhf/turns.py), where nobody but the Follower reads them: they are thoughts, and are counted as such.
What it has to say may be no more than the results that it reads in all of them. Then these are counted, and one of its
own answers takes the draft's place or none does (slhf/readings.py). Where they leave it open which result is right,
a bundle may have further ones written, and then all are counted.

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
from slhf_server.models.whole import Spent, answer_of, at_once, joined, less, whole

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
        conversation, draft = turns[:-2], turns[-2].text
        asked = await self._asked(conversation, sampling)
        await self._run(asked, [draft])
        # A draft does not stay unread where it misses what is asked for, or may not have the structure that is.
        missing = await asyncio.to_thread(misses, asked, draft) if asked else False
        may_stay = sampling.structure is None and not missing
        look = await self._looked(turns, sampling, request_id) if may_stay else None
        if look is not None and _stays(look):
            yield look
            return
        if look is not None:  # it is spent, whatever becomes of the own answers
            yield Chunk("", look.completion_tokens, look.prompt_tokens, look.cached_tokens)
        looked = Spent([] if look is None else [look])
        round_ = _Round(turns, sampling, request_id, asked, missing)
        written = await self._written(round_, less(sampling, looked), range(self.how.count))
        spent = looked.and_for(written)
        yield Chunk("", spent.completion - looked.completion, spent.prompt, spent.cached)
        own = await self._usable(written, asked)
        proven = await asyncio.to_thread(_proven, own, draft, asked) if missing else None
        if proven is not None:
            yield _alone(proven, spent)
            return
        async with aclosing(self._refined(round_, own, spent, deltas)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _refined(
        self, round_: "_Round", own: Sequence[Chunk], spent: Spent, deltas: bool
    ) -> AsyncGenerator[Chunk, None]:
        """What the Follower says beside as many of its own answers as there is room for."""
        shown = [*own]
        while True:
            turns, sampling, said = round_.beside(shown), less(round_.sampling, spent), list[Chunk]()
            chunks = self.follower.stream(turns, sampling, request_id=round_.request_id, deltas=deltas)
            try:
                async with aclosing(chunks):
                    async for chunk in chunks:
                        said.append(chunk)
                        if chunk.finish_reason != "stop":
                            yield spent.before(chunk)
                break
            except (ContextLengthExceeded, TokenBudgetExceeded):  # which come before the first token
                if not shown:
                    raise
                shown.pop()
        if said[-1].finish_reason == "stop":
            async with aclosing(self._ended(round_, said, shown, own, spent)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def _ended(
        self, round_: "_Round", said: Sequence[Chunk], shown: Sequence[Chunk], own: Sequence[Chunk], spent: Spent
    ) -> AsyncGenerator[Chunk, None]:
        """The round's last chunk, and what takes the draft's place where the Follower has said no more than it thought.

        `shown`: the own answers that it has read. Another one may take the draft's place, too, if the draft misses
        something, because it meets all that is asked for.
        """
        reading, last = joined(said), spent.before(said[-1])
        thoughts = lone_thoughts(reading.text)
        if thoughts is None:
            yield last
            return
        readings = await asyncio.to_thread(_heard, thoughts, shown, round_.draft)
        if readings is not None and self.how.further and readings.is_open(self.how.margin):
            # What was said is paid for, whatever becomes of the further own answers.
            yield replace(last, finish_reason=None, reasoning_tokens=0, accepted_tokens=0, rejected_tokens=0)
            readings, more, written = await self._further(round_, readings, spent.and_for([reading]))
            shown, own, cost = [*shown, *more], [*own, *more], Spent(written)
            last = replace(cost.before(last), text="", logprobs=(), completion_tokens=cost.completion)
        others = own if round_.missing else ()
        taken = await asyncio.to_thread(_taken, self._preferred(readings, shown), others, round_.draft, round_.asked)
        yield last if taken is None else _with(last, taken)

    async def _further(
        self, round_: "_Round", readings: Readings, spent: Spent
    ) -> tuple[Readings, list[Chunk], list[Chunk]]:
        """The readings with those of further own answers, these answers, and all that was written for it.

        Nothing comes to the readings where no room or budget is left.
        """
        numbers, written = range(self.how.count, self.how.count + self.how.further), list[Chunk]()
        try:
            written += await self._written(round_, less(round_.sampling, spent), numbers)
            own = await self._usable(written, round_.asked)
            if not own:
                return readings, [], written
            sampling = replace(less(round_.sampling, spent.and_for(written)), min_tokens=None)
            written.append(await whole(self.follower, round_.beside(own), sampling, f"{round_.request_id}-further"))
        except (ContextLengthExceeded, TokenBudgetExceeded):
            return readings, [], written
        thoughts = lone_thoughts(written[-1].text) or ""
        heard = await asyncio.to_thread(_heard, thoughts, own, round_.draft, readings.draft)
        return (readings, [], written) if heard is None else (readings.with_further(heard.own), own, written)

    def _preferred(self, readings: Readings | None, own: Sequence[Chunk]) -> list[Chunk]:
        """The own answers with the result that is to replace the draft's, as the Follower has read all of them."""
        place = None if readings is None else readings.chosen(self.how.margin)
        if readings is None or place is None:
            return []
        return [answer for answer, result in zip(own, readings.own, strict=True) if result == readings.own[place]]

    async def _usable(self, written: Sequence[Chunk], asked: Sequence[Checkable]) -> list[Chunk]:
        """Those that have come to an end, whose programs have been run."""
        own = [answer for chunk in written if (answer := answer_of(chunk))]
        await self._run(asked, [answer.text for answer in own])
        return own

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

    async def _written(self, round_: "_Round", sampling: SamplingParams, numbers: range) -> list[Chunk]:
        """Own answers, each as one chunk. `numbers`: which of them; each has noise of its own."""
        pattern = pattern_of(round_.asked)
        try:
            return await self._sampled(round_, replace(sampling, pattern=pattern), numbers)
        except BadRequest:
            if pattern is None:
                raise
            # An engine may know no grammars. Nobody asked for one, so the answers are written without.
            return await self._sampled(round_, sampling, numbers)

    async def _sampled(self, round_: "_Round", sampling: SamplingParams, numbers: range) -> list[Chunk]:
        budget = sampling.max_total_tokens
        share = replace(sampling, max_total_tokens=None if budget is None else budget // (len(numbers) + 1))
        most = None if round_.missing else self.how.max_tokens
        return await at_once(
            whole(
                self.leader,
                round_.conversation,
                self._sampling(share, number, most),
                f"{round_.request_id}-own-{number}",
            )
            for number in numbers
        )

    def _sampling(self, asked: SamplingParams, number: int, most: int | None) -> SamplingParams:
        """At the bundle's temperature, whatever the request says: without any all of them would be the same one."""
        seed = 0 if asked.temperature == 0 and asked.seed is None else asked.seed  # temperature 0 stays deterministic
        return SamplingParams(
            temperature=self.how.temperature,
            max_tokens=min(filter(None, (most, asked.max_tokens)), default=None),
            max_total_tokens=asked.max_total_tokens,
            stop=asked.stop,
            seed=None if seed is None else (seed + 1 + number) % _SEEDS,
            logprobs=asked.logprobs,
            structure=asked.structure,
            pattern=asked.pattern,
            cache_salt=asked.cache_salt,
            priority=asked.priority,
            template_options=asked.template_options,
        )


@dataclass(frozen=True, slots=True)
class _Round:
    """What a round is asked, and what is known of its draft."""

    turns: Sequence[Turn]
    sampling: SamplingParams
    request_id: str
    asked: Sequence[Checkable]
    """What a program reads in the prompt."""
    missing: bool
    """Whether the draft misses something of that."""

    @property
    def conversation(self) -> Sequence[Turn]:
        return self.turns[:-2]

    @property
    def draft(self) -> str:
        return self.turns[-2].text

    def beside(self, own: Sequence[Chunk]) -> list[Turn]:
        """The Follower's turns with own answers."""
        *before, asking = self.turns
        return [*before, replace(asking, text=with_own_answers(asking.text, [one.text.strip() for one in own]))]


def _stays(look: Chunk) -> bool:
    return look.finish_reason == "stop" and (lone_thoughts(look.text) or "").strip() == STAYS


def _looking(asked: SamplingParams) -> SamplingParams:
    return replace(asked, max_tokens=min(_LOOK_TOKENS, asked.max_tokens or _LOOK_TOKENS), min_tokens=None)


def _proven(own: Sequence[Chunk], draft: str, asked: Sequence[Checkable]) -> Chunk | None:
    """The first own answer that meets all, where the draft's program fails its prompt's examples: nobody is asked."""
    if not any(isinstance(one, Examples) and one.missed(draft) for one in asked):
        return None
    return next((answer for answer in own if meets(asked, answer.text)), None)


def _alone(answer: Chunk, spent: Spent) -> Chunk:
    """An own answer as the whole of the round, whose tokens have been told of before."""
    last = Chunk(answer.text, 0, finish_reason="stop", logprobs=answer.logprobs, proven=True)
    last = spent.before(last)
    return replace(last, reasoning_tokens=last.reasoning_tokens - answer.completion_tokens)


def _heard(thoughts: str, own: Sequence[Chunk], draft: str, result: str | None = None) -> Readings | None:
    """What the Follower has read in the draft and in all own answers; None: something else.

    `result`: the draft's, where that is known.
    """
    readings = Readings.parse(thoughts)
    if readings is None or len(readings.own) != len(own):
        return None
    readings = readings if result is None else replace(readings, draft=result)
    return readings.heard(draft, [answer.text for answer in own])


def _taken(preferred: Sequence[Chunk], others: Sequence[Chunk], draft: str, asked: Sequence[Checkable]) -> Chunk | None:
    """The own answer that takes the draft's place: the first preferred one that loses nothing of what is asked for, or
    the first other one that meets all of it. None: none does."""
    for answer in preferred:
        if not loses(asked, draft, answer.text):
            return answer
    return next((answer for answer in others if meets(asked, answer.text)), None)


def _with(chunk: Chunk, answer: Chunk) -> Chunk:
    """The round's last chunk with the own answer that is its text, which was counted among the thoughts before."""
    return replace(
        chunk,
        text=f"{chunk.text}{answer.text}",
        reasoning_tokens=chunk.reasoning_tokens - answer.completion_tokens,
        logprobs=(*chunk.logprobs, *answer.logprobs),
    )
