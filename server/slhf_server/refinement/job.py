"""What one refinement is asked to do, settled before it starts: every default applied, every limit checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from slhf.wire import DraftSource, Role
from slhf_server.deadline import Deadline
from slhf_server.models.base import ChatModel, SamplingParams, Turn
from slhf_server.models.structured_output.response_format import StructuredOutput
from slhf_server.refinement.request_log import RequestLog
from slhf_server.refinement.stops import StopRule

Endpoint = Literal["chat", "completions", "refine", "responses"]
Drafter = Literal["engine", "upstream", "client"]
"""Who writes the draft of a request."""
Deltas = Literal["none", "last", "all"]
"""Which rounds somebody reads while they are generated."""


@dataclass(frozen=True, slots=True)
class RoleBinding:
    """A role, the model that plays it, and how it samples."""

    role: Role
    model: ChatModel
    sampling: SamplingParams


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
    """`time.perf_counter()` when the request was planned: durations include its time in the queue."""
    deadline: Deadline
    max_total_tokens: int
    log: RequestLog = field(default_factory=RequestLog)
    """The request's line in the log, which all its chains add to."""
    trace: Mapping[str, str] = field(default_factory=dict)
    """The headers that name the caller's span (api/headers.py)."""
    choice: int = 0
    """Which of the request's chains this is."""
    rounds_before: int = 0
    """Rounds of the same chain before this job's draft: an evaluation that goes on draws the seeds that come next."""
    cache_salt: str | None = None
    """In the engine's prefix cache a job finds what jobs of the same salt have put there; None: those without one."""
    run_id: str = ""
    """What the engine knows this job by: clients may send one request id twice at once."""
    fail_on_error: bool = False
    stops: tuple[StopRule, ...] = ()
    structure: StructuredOutput | None = None
    deltas: Deltas = "none"
    counts_tokens: bool = False
    """Count tokens as they come although nobody reads along: a round that a deadline cuts is then billed exactly."""

    @property
    def request_id(self) -> str:
        return self.id.partition("-")[2]

    @property
    def engine_plays(self) -> bool:
        """Whether any round is the engine's: an upstream's draft alone is not."""
        return self.rounds > 0 or self.draft_source == "leader"

    def streams(self, number: int) -> bool:
        """Whether somebody reads this round while it is generated."""
        wanted = self.deltas == "all" or (self.deltas == "last" and number == self.rounds)
        return wanted and not self._is_validated_first(number)

    def wants_pieces(self, number: int) -> bool:
        """Whether this round's model should give pieces, not only the whole."""
        return self.counts_tokens or self.streams(number)

    def answers_with(self, number: int) -> bool:
        """Whether this round's pieces reach the client as the answer itself, so that they cannot be taken back.

        In `/v1/refine` they are called a round's: only where there is no other round they are the answer.
        """
        return number == self.rounds and (self.endpoint != "refine" or number == 0) and self.streams(number)

    def _is_validated_first(self, number: int) -> bool:
        """A structured answer is shown when it is known to be one. A Leader's, with no round to come, is what it is."""
        return self.structure is not None and number == self.rounds > 0
