"""What one refinement is asked to do: settled before it starts, with every default applied and every limit checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from slhf.wire import DraftSource, Role
from slhf_server.deadline import Deadline
from slhf_server.models.base import ChatModel, Chunk, SamplingParams, Turn
from slhf_server.models.judge import Judge
from slhf_server.models.structured_output.response_format import StructuredOutput
from slhf_server.refinement.request_log import RequestLog
from slhf_server.refinement.standing import StopRule
from slhf_server.settings.server import Kept

Endpoint = Literal["chat", "completions", "messages", "refine", "responses"]
Drafter = Literal["engine", "upstream", "client"]
"""Who writes the draft of a request."""
Deltas = Literal["none", "last", "all"]
"""Which rounds the client reads while they are generated."""


@dataclass(frozen=True, slots=True)
class RoleBinding:
    """A role, the model that plays it, and how it samples."""

    role: Role
    model: ChatModel
    sampling: SamplingParams
    keeps_by_silence: bool = False
    """Whether thoughts with nothing after them say that the draft stays (slhf/bundle.py)."""


@dataclass(frozen=True, slots=True)
class Judging:
    """Who judges a refinement's rounds, and what for."""

    judge: Judge
    turns: tuple[Turn, ...]
    """What was asked, as the judge is shown it."""
    margin: float
    """How probably a round has to be better than the best text before it, to be the best itself."""
    selects: bool
    """Whether the best text is the answer; else the last one is, and stop rules alone look at verdicts."""


@dataclass(frozen=True, slots=True, eq=False)  # two jobs are never the same one
class Job:
    id: str
    endpoint: Endpoint
    model: str
    """The served model's name."""
    turns: tuple[Turn, ...]
    """The conversation x as the Follower sees it, ending where an answer is due."""
    leader_turns: tuple[Turn, ...]
    """x as the Leader sees it: an upstream is sent the messages as they came."""
    draft: str | None
    """y_0 from the client, as it was sent; None: the Leader writes it."""
    draft_source: DraftSource
    rounds: int
    leader: RoleBinding | None
    """None only where a draft is given."""
    follower: RoleBinding
    follower_turn: str
    received: float
    """`time.perf_counter()` when the request was planned, so that durations include the time in the queue."""
    deadline: Deadline
    max_total_tokens: int
    log: RequestLog = field(default_factory=RequestLog)
    """The request's line in the log, which all its chains add to."""
    trace: Mapping[str, str] = field(default_factory=dict)
    """The headers that name the caller's span (api/headers.py)."""
    choice: int = 0
    """Which of the request's chains this is."""
    rounds_before: int = 0
    """How many rounds the chain had before this job's draft, so that an evaluation goes on with the seeds due."""
    cache_salt: str | None = None
    """A job finds in the engine's prefix cache only what jobs of the same salt, or all without one, have put there."""
    run_id: str = ""
    """The job's name in the engine, because clients may send one request id twice at once."""
    fail_on_error: bool = False
    stops: tuple[StopRule, ...] = ()
    structure: StructuredOutput | None = None
    kept: tuple[Kept, ...] = ()
    """What a round must not lose."""
    kept_by_operator: tuple[Kept, ...] = ()
    """What it must not lose even for a text that a program has proven."""
    holds_back: bool = False
    """Whether the last round is shown once it is whole: it may have lost something, or an earlier one be better."""
    judging: Judging | None = None
    """None: no judge is asked."""
    instruction: str | None = None
    """A wish for this request alone, which the Follower's turn ends with."""
    profile: str | None = None
    """The named way to refine that filled in what the request left out."""
    draft_thinks: bool = False
    """Whether the client's draft may begin with thoughts."""
    deltas: Deltas = "none"
    tools_ignored: bool = False
    """Whether the request offered tools to a Leader that cannot call any."""
    no_store: bool = False
    """Whether the client wants nothing kept (`Cache-Control: no-store`)."""
    shadow_rounds: int = 0
    """In shadow mode: how many rounds were asked for, of which the client gets none; else 0."""
    timeout_s: float = 0.0
    """How far off the deadline was when the request was planned."""
    counts_tokens: bool = False
    """Have chunks sent even when nothing is streamed, so that a round that is cut is billed exactly."""

    @property
    def request_id(self) -> str:
        """The request's id without the endpoint's prefix."""
        return self.id.partition("-")[2]

    @property
    def priority(self) -> int:
        """vLLM's: lower runs first, in the queue too."""
        return self.follower.sampling.priority

    @property
    def engine_plays(self) -> bool:
        """Whether the engine has a round to play; an upstream's draft without rounds leaves it none."""
        return self.rounds > 0 or self.draft_source == "leader"

    def shadow(self, draft: str, spent: int, priority: int) -> "Job":
        """The refinement of that draft that the client did not get, after everybody else's, with the tokens that
        `spent` has left of the budget. `again` says when its time begins."""
        return replace(
            self,
            draft=draft,
            rounds=self.shadow_rounds,
            shadow_rounds=0,
            leader=None,
            leader_turns=(),  # they may hold images, and nobody drafts any more
            follower=replace(self.follower, sampling=replace(self.follower.sampling, priority=priority)),
            draft_thinks=False,  # the draft is as the Follower sees it
            max_total_tokens=self.max_total_tokens - spent,
            deltas="none",
            counts_tokens=False,
        )

    def again(self, attempt: int) -> "Job":
        """The same job with as much time from now, and a name and a log of its own."""
        deadline = Deadline.after(self.timeout_s)
        return replace(self, deadline=deadline, run_id=f"{self.run_id}.{attempt}", log=RequestLog())

    def streams(self, number: int) -> bool:
        """Whether the client reads this round while it is generated."""
        wanted = self.deltas == "all" or (self.deltas == "last" and number == self.rounds)
        return wanted and not self._is_validated_first(number)

    def wants_pieces(self, number: int) -> bool:
        """Whether this round's model should yield pieces, and not only the whole."""
        return self.counts_tokens or self.streams(number) or self.streams_calls(number)

    def streams_calls(self, number: int) -> bool:
        """Whether the client reads this round's tool calls while they are written: a turn that calls is the answer."""
        calls = number == 0 and self.leader is not None and self.leader.sampling.tools is not None
        return calls and self.deltas != "none"

    def answers_with(self, number: int) -> bool:
        """Whether this round's pieces reach the client as the answer itself, so that they cannot be taken back.

        `/v1/refine` streams them as a round's pieces: they are the answer only where no other round follows.
        """
        return number == self.rounds and (self.endpoint != "refine" or number == 0) and self.streams(number)

    def kept_of(self, last: Chunk | None) -> tuple[Kept, ...]:
        """What a round that ends with this chunk must not lose."""
        return self.kept_by_operator if last is not None and last.proven else self.kept

    def _is_validated_first(self, number: int) -> bool:
        """A structured answer is shown once it is known to be valid; a Leader's, with no round to come, as it is."""
        held = self.holds_back and self.endpoint != "refine"  # whose pieces a finished round may take back
        return (held or self.structure is not None) and number == self.rounds > 0
