"""The book-keeping of one refinement: finished rounds, the round that runs, tokens and times."""

import time
from dataclasses import dataclass, replace

from rapidfuzz.distance import Indel

from slhf.wire import FinishReason, Refinement, RefinementUsage, Round, RoundCompleted, StopReason, Usage
from slhf_server.errors import BadRequest, RequestError, Stopped, TokenBudgetExceeded
from slhf_server.job import Job, Player
from slhf_server.model import Chunk, Sampling, Turn


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a refinement ended. `refinement.rounds` holds every finished round."""

    text: str
    finish_reason: FinishReason
    refinement: Refinement
    usage: Usage
    overhead_ms: float
    """Time in which no model was at work for this request."""

    def report(self, with_rounds: bool) -> Refinement:
        """What the client is shown."""
        return self.refinement if with_rounds else self.refinement.model_copy(update={"rounds": []})


class Chain:
    """Grows by `next_round`, `take` for each chunk, `finish_round`; ends by `outcome`."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._finished: list[Round] = []
        self._usages: list[Usage] = []  # by round number, cut-off rounds included
        self._latest = Turn("assistant", "")
        self._text: list[str] = []
        self._last: Chunk | None = None
        self._round_started = job.received
        self._model_seconds = 0.0

    @property
    def number(self) -> int:
        """The round that runs, or comes next: 0 is the draft."""
        return len(self._finished)

    def accept_draft(self, draft: str) -> RoundCompleted:
        """Round 0 is the client's text, byte for byte."""
        self._usages.append(Usage())
        return self._accept(
            Round(
                round=0,
                role="client",
                model="client",
                text=draft,
                finish_reason="stop",
                usage=Usage(),
                latency_ms=0.0,
            ),
            Turn("assistant", draft),
        )

    def stop_reason(self) -> StopReason | None:
        """Why no further round follows; None: go on."""
        if not self._finished:
            return None
        if self.number > self._job.rounds:
            return "rounds_done" if self._job.rounds else "disabled"
        if self._left() <= 0:
            return "token_budget"
        return next((reason for rule in self._job.stops if (reason := rule(self._finished))), None)

    def next_round(self) -> tuple[Player, tuple[Turn, ...], Sampling]:
        """Who plays, on which turns, sampled how."""
        self._text, self._last, self._round_started = [], None, time.perf_counter()
        self._usages.append(Usage())
        player, turns = self._job.follower, self._job.turns
        if self._finished:
            turns = (*turns, self._latest, Turn("user", self._job.follower_turn))
        else:
            assert self._job.leader is not None  # a job without draft has a Leader (planner.py)
            player = self._job.leader
        return player, turns, replace(player.sampling, max_total_tokens=self._left())

    def take(self, chunk: Chunk) -> None:
        """A piece of the running round."""
        self._text.append(chunk.text)
        self._last = chunk
        completion = self._usages[-1].completion_tokens + chunk.completion_tokens
        self._usages[-1] = Usage.of(
            chunk.prompt_tokens,
            completion,
            cached=chunk.cached_tokens,
            accepted=chunk.accepted_tokens,
            rejected=chunk.rejected_tokens,
        )

    def finish_round(self) -> RoundCompleted:
        """The running round's completion is whole. Raises TokenBudgetExceeded if the budget cut it short."""
        assert self._last is not None and self._last.finish_reason is not None  # the Protocol's last chunk
        if self._finished and self._last.finish_reason == "length" and self._left() <= 0:
            raise TokenBudgetExceeded("max_total_tokens is used up")
        self._model_seconds += time.perf_counter() - self._round_started
        return self._accept_running(self._last.finish_reason)

    def settle(self, exc: RequestError) -> StopReason:
        """Decide what an early end means: the reason beside the best finished text, or the error itself.

        A streamed last round has already reached the client as the answer: cut by a limit, it stands as it is
        (finish_reason "length"); cut by an error, there is no honest way on but the error.
        """
        if len(self._usages) > len(self._finished):  # a round was running
            self._model_seconds += time.perf_counter() - self._round_started
        if not self._finished or (isinstance(exc, BadRequest) and self._only_the_clients_draft()):
            raise exc
        if not isinstance(exc, Stopped) and self._job.fail_on_error:
            raise exc
        if any(self._text) and self._job.answers_with(self.number):
            if not isinstance(exc, Stopped):
                raise exc
            self._accept_running("length")
        return exc.stop_reason

    def outcome(self, reason: StopReason) -> Outcome:
        best = self._finished[-1]
        duration = time.perf_counter() - self._job.received
        usage = RefinementUsage(draft=self._usages[0], rounds=self._usages[1:])
        refinement = Refinement(
            applied=best.round > 0,
            rounds_requested=self._job.rounds,
            rounds_run=len(self._finished) - 1,
            returned_round=best.round,
            stop_reason=reason,
            draft_source="leader" if self._job.draft is None else "client",
            duration_ms=duration * 1e3,
            usage=usage,
            rounds=self._finished,
        )
        overhead = (duration - self._model_seconds) * 1e3
        return Outcome(best.text, best.finish_reason, refinement, usage.total(), overhead)

    def _accept_running(self, finish_reason: FinishReason) -> RoundCompleted:
        assert self._last is not None  # at least one chunk was taken
        player = self._job.follower if self._finished else self._job.leader
        assert player is not None
        text = "".join(self._text)
        seconds = time.perf_counter() - self._round_started
        finished = Round(
            round=self.number,
            role=player.role,
            model=player.model.name,
            text=text,
            finish_reason=finish_reason,
            usage=self._usages[-1],
            latency_ms=seconds * 1e3,
            edit_ratio=edit_ratio(self._finished[-1].text, text) if self._finished else None,
        )
        return self._accept(finished, Turn("assistant", text, self._last.token_ids))

    def _accept(self, finished: Round, turn: Turn) -> RoundCompleted:
        self._finished.append(finished)
        self._latest = turn
        return RoundCompleted(**dict(finished))

    def _left(self) -> int:
        return self._job.max_total_tokens - sum(usage.total_tokens for usage in self._usages)

    def _only_the_clients_draft(self) -> bool:
        return len(self._finished) == 1 and self._job.draft is not None


def edit_ratio(before: str, after: str) -> float:
    """Share of words inserted or deleted between two texts: 0 for the same words, 1 when nothing is kept."""
    return Indel.normalized_distance(before.split(), after.split())
