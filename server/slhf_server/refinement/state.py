"""The book-keeping of one refinement: finished rounds, the round that runs, tokens and times."""

import time
from dataclasses import dataclass, replace
from typing import Any

from slhf.wire import (
    FinishReason,
    Refinement,
    RefinementUsage,
    Round,
    RoundCompleted,
    RoundDelta,
    RoundJudged,
    StopReason,
    TokenLogprob,
    Usage,
)
from slhf_server.errors import (
    BadRequest,
    EngineFailed,
    InvalidStructure,
    RequestError,
    Stopped,
    TokenBudgetExceeded,
    UpstreamFailed,
)
from slhf_server.models.base import Chunk, SamplingParams, Turn, request_of
from slhf_server.models.reasoning import is_blank, refinable
from slhf_server.refinement.comparison import Comparison, Judged
from slhf_server.refinement.edits import edit_ratio
from slhf_server.refinement.job import Job, RoleBinding
from slhf_server.refinement.kept import find_lost
from slhf_server.refinement.round import RoundState
from slhf_server.refinement.seeds import seed_of
from slhf_server.refinement.trajectory import Trajectory
from slhf_server.settings.server import Kept


@dataclass(frozen=True, slots=True)
class RefinementResult:
    """How a refinement ended. `refinement.rounds` holds every finished round."""

    text: str
    finish_reason: FinishReason
    refinement: Refinement
    usage: Usage
    overhead_ms: float
    """Time in which no model was at work for this request."""
    draft: str
    """Round 0's text as the Follower saw it."""
    logprobs: tuple[TokenLogprob, ...]
    """Those of the returned round's tokens, where the request asked for them; a client's draft has none."""
    stop_sequence: str | None = None
    """The stop string that ended the returned round, where its model says so."""

    judged: tuple[RoundJudged, ...] = ()
    """What the judge said of the rounds."""

    @property
    def tool_calls(self) -> list[dict[str, Any]] | None:
        """OpenAI's tool calls of the returned round, if it has any."""
        return self.refinement.rounds[-1].tool_calls

    @property
    def texts(self) -> tuple[str, ...]:
        """Those of all finished rounds, the draft's as the Follower saw it."""
        return self.draft, *(finished.text for finished in self.refinement.rounds[1:])

    def report(self, with_rounds: bool) -> Refinement:
        """The report that the client is shown, with the texts of all rounds if it asks for them."""
        return self.refinement if with_rounds else self.refinement.model_copy(update={"rounds": []})


class RefinementState:
    """A refinement's state, which grows by `next_round`, `take` for each chunk and `finish_round`; `result` ends it."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._finished: list[RoundCompleted] = []
        self._endings: list[
            tuple[list[TokenLogprob], str | None]
        ] = []  # log-probabilities, stop string of each of them
        self._trajectory = Trajectory(job)
        self._latest = Turn("assistant", "")
        self._draft = ""  # as the Follower saw it
        self._running: RoundState | None = None
        self._usages: list[Usage] = []  # by round number, cut-off rounds included
        self._spent = 0  # their tokens
        self._model_seconds = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether the running round's model has said everything."""
        return self._live().whole

    @property
    def number(self) -> int:
        """The number of the round that runs or comes next; 0 is the draft."""
        return len(self._finished)

    def accept_draft(self, draft: str) -> RoundCompleted:
        """Take the client's text as round 0."""
        usage = Usage()
        self._usages.append(usage)
        self._endings.append(([], None))
        return self._accept(
            RoundCompleted(
                round=0,
                role="client",
                model="client",
                text=draft,
                finish_reason="stop",
                usage=usage,
                latency_ms=0.0,
            ),
            Turn("assistant", refinable(draft) if self._job.draft_thinks else draft),
        )

    def stop_reason(self) -> StopReason | None:
        """Why no further round follows; None: go on."""
        if not self._finished:
            return None
        if self._finished[-1].tool_calls:
            return "tool_calls"
        met = self._rules_met()
        if self.number > self._job.rounds:
            done: StopReason = "shadowed" if self._job.shadow_rounds else "disabled"
            done = "rounds_done" if self._job.rounds else done
            return "no_gain" if "no_gain" in met else done
        if self._left() <= 0 and "no_gain" not in met:
            return "token_budget"
        return met[0] if met else None

    def next_round(self) -> tuple[RoleBinding, tuple[Turn, ...], SamplingParams]:
        """Begin a round: who plays it, on which turns, and how it is sampled.

        Raises EngineFailed or UpstreamFailed where the Leader has left nothing to refine.
        """
        binding, turns = self._binding(), self._job.leader_turns
        if self._finished:
            self._check_draft()
            turns = (*self._job.turns, self._latest, Turn("user", self._job.follower_turn))
        self._running = RoundState(self._latest.text if self._finished and binding.keeps_by_silence else None)
        seed, salt = self._seed(binding), self._job.cache_salt
        return binding, turns, replace(binding.sampling, max_total_tokens=self._left(), seed=seed, cache_salt=salt)

    def take(self, chunk: Chunk) -> RoundDelta | None:
        """Add a chunk to the running round, and return what of it can be shown if the client reads this round."""
        running = self._live()
        known = len(running.logprobs)
        shown = running.take(chunk)
        if chunk.call_deltas and self._job.streams_calls(self.number):
            return self._call_deltas(running, chunk, shown)
        if running.calls_shown and shown:
            return RoundDelta(round=self.number, delta=shown, logprobs=running.logprobs[known:])
        if not running.begun or not self._job.streams(self.number):
            return None
        if not shown and len(running.logprobs) == known:
            return None
        return RoundDelta(round=self.number, delta=shown, logprobs=running.logprobs[known:])

    async def finish_round(self) -> RoundCompleted:
        """End the running round, whose completion is whole.

        Of a Follower's round, raises TokenBudgetExceeded where the budget cut it, InvalidStructure where it is not what
        `response_format` asks for, and EngineFailed where there is nothing to see in it.
        """
        running = self._live()
        assert running.last is not None
        assert running.last.finish_reason is not None
        if self._finished and running.last.finish_reason == "length" and self._left() <= running.tokens:
            raise TokenBudgetExceeded("max_total_tokens is used up")
        text = running.text
        if self._finished and self._job.structure is not None and not await self._job.structure.admits(text):
            raise InvalidStructure("the round's text is not what response_format asks for")
        if self._finished and is_blank(text):
            raise EngineFailed("the Follower wrote nothing")  # an empty text is never better than its draft
        self._cut()
        if self._finished and (what := await self._lost(running, text)) is not None:
            return self._keep_draft(running, what)
        return self._accept_running(running, running.last.finish_reason)

    async def comparison(self) -> Comparison | None:
        """What the judge is to compare now that a round has finished; None: nothing."""
        return await self._trajectory.comparison(self._seen(), self._left()) if self._job.judging else None

    def take_verdict(self, judged: Judged) -> RoundJudged:
        """Add what came of a comparison."""
        event = self._trajectory.take(judged)
        self._spent += event.usage.total_tokens
        self._model_seconds += judged.seconds
        return event

    def settle(self, exc: RequestError) -> StopReason:
        """Decide what an early end means: the reason beside the best finished text, or the error itself.

        A streamed last round that has begun has reached the client as the answer: cut by a limit, it stands as it is
        (finish_reason "length"); cut by an error, there is no honest way on but the error.
        """
        running = self._cut()
        answers = running is not None and running.begun and self._job.answers_with(self.number)
        answered = running is not None and (answers or running.calls_shown)
        if running is not None and answered and isinstance(exc, Stopped):
            self._accept_running(running, "length")
            return exc.stop_reason
        refused = isinstance(exc, BadRequest) and self._only_the_clients_draft()
        if answered or refused or not self._finished or (self._job.fail_on_error and not isinstance(exc, Stopped)):
            raise exc
        return exc.stop_reason

    def result(self, reason: StopReason) -> RefinementResult:
        """The best finished text, with the report of how it came about."""
        answer = self._trajectory.answer(len(self._finished) - 1)
        best = self._finished[answer]
        logprobs, stop_sequence = self._endings[answer]
        duration = time.perf_counter() - self._job.received
        usage = RefinementUsage(draft=self._usages[0], rounds=self._usages[1:], judge=self._trajectory.usage)
        refinement = Refinement(
            applied=any(one.round and one.lost is None for one in self._finished[: answer + 1]),
            rounds_requested=self._job.rounds or self._job.shadow_rounds,
            rounds_run=len(self._finished) - 1,
            returned_round=best.round,
            stop_reason=reason,
            draft_source=self._job.draft_source,
            tools_ignored=self._job.tools_ignored,
            profile=self._job.profile,
            duration_ms=duration * 1e3,
            usage=usage,
            selection=self._trajectory.report(len(self._finished) - 1),
            rounds=[*self._finished],
        )
        overhead = (duration - self._model_seconds) * 1e3
        return RefinementResult(
            best.text,
            best.finish_reason,
            refinement,
            usage.total(),
            overhead,
            self._draft,
            tuple(logprobs),
            stop_sequence,
            self._trajectory.events,
        )

    def spent(self) -> Usage:
        """What all rounds and the judge have cost so far, as far as they have said: that of the running round too."""
        running = [] if self._running is None else [self._running.usage()]
        return sum([*self._usages, *running, self._trajectory.usage], Usage())

    def _rules_met(self) -> list[StopReason]:
        if not self._job.stops:
            return []
        standing = self._trajectory.standing(self._seen())
        return [reason for rule in self._job.stops if (reason := rule(standing)) is not None]

    def _seen(self) -> list[Round]:
        """The finished rounds, with the draft as the Follower saw it."""
        return [self._finished[0].model_copy(update={"text": self._draft}), *self._finished[1:]]

    def _binding(self) -> RoleBinding:
        """Who plays the round that runs or comes next."""
        if self._finished:
            return self._job.follower
        assert self._job.leader is not None  # a job without draft has a Leader (planner.py)
        return self._job.leader

    def _seed(self, binding: RoleBinding) -> int | None:
        """The next round's seed. An upstream draws noise of its own: for the first choice it gets the seed as sent."""
        seed = seed_of(binding.sampling.seed, self._job.choice, self._job.rounds_before + self.number)
        as_sent = self._job.draft_source == "upstream" and self.number == self._job.choice == 0
        return binding.sampling.seed if as_sent and seed is not None else seed

    def _live(self) -> RoundState:
        assert self._running is not None  # between next_round and finish_round
        return self._running

    def _cut(self) -> RoundState | None:
        """End the running round, if there is one, and count what it cost, whether it is finished or not."""
        running, self._running = self._running, None
        if running is not None:
            self._model_seconds += running.seconds
            usage = running.usage()
            self._usages.append(usage)
            self._spent += usage.total_tokens
        return running

    def _call_deltas(self, running: RoundState, chunk: Chunk, shown: str) -> RoundDelta:
        """Pieces of tool calls. With the first ones comes the text before them, which nobody refines any more."""
        if not running.calls_shown and not self._job.answers_with(self.number):
            shown = "" if is_blank(running.text) else running.text
        running.calls_shown = True
        return RoundDelta(round=self.number, delta=shown, tool_calls=[dict(call) for call in chunk.call_deltas])

    def _accept_running(self, running: RoundState, finish_reason: FinishReason) -> RoundCompleted:
        self._endings.append((running.logprobs, None if running.last is None else running.last.stop_sequence))
        text, calls = running.text, [dict(call) for call in running.tool_calls] or None
        finished = self._round(running, text, finish_reason, tool_calls=calls)
        return self._accept(finished, Turn("assistant", text, running.token_ids()))

    async def _lost(self, running: RoundState, text: str) -> Kept | None:
        """What the running round's text has lost. What was streamed as the answer cannot be taken back, and there is no
        going back to a draft that is not what `response_format` asks for, such as JSON in a fence."""
        if self._job.answers_with(self.number):
            return None
        kept = self._job.kept_of(running.last)
        what = await find_lost(kept, request_of(self._job.turns), self._latest.text, text)
        bound = self._job.structure if what is not None else None
        return what if bound is None or await bound.admits(self._latest.text) else None

    def _keep_draft(self, running: RoundState, what: Kept) -> RoundCompleted:
        """End a round that has lost something: its text is the one before it."""
        before = self._finished[-1]
        self._endings.append(self._endings[-1])
        finished = self._round(running, self._latest.text, before.finish_reason, lost=what)
        return self._accept(finished, self._latest)

    def _round(self, running: RoundState, text: str, finish_reason: FinishReason, **more: Any) -> RoundCompleted:
        binding = self._binding()
        return RoundCompleted(
            round=self.number,
            role=binding.role,
            model=binding.model.name,
            text=text,
            finish_reason=finish_reason,
            usage=self._usages[-1],
            latency_ms=running.seconds * 1e3,
            edit_ratio=edit_ratio(self._latest.text, text) if self._finished else None,
            **more,
        )

    def _accept(self, finished: RoundCompleted, turn: Turn) -> RoundCompleted:
        self._draft = self._draft if self._finished else turn.text
        self._finished.append(finished)
        self._latest = turn
        return finished

    def _left(self) -> int:
        """Tokens of the budget that finished and cut-off rounds have left."""
        return self._job.max_total_tokens - self._spent

    def _check_draft(self) -> None:
        draft = self._finished[-1]
        if draft.role == "leader" and is_blank(draft.text):
            failed = UpstreamFailed if self._job.draft_source == "upstream" else EngineFailed
            raise failed("the Leader wrote nothing that could be refined")

    def _only_the_clients_draft(self) -> bool:
        return len(self._finished) == 1 and self._job.draft is not None
