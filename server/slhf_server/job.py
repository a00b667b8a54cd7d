"""What one refinement is asked to do, settled before it starts: every default applied, every limit checked."""

from dataclasses import dataclass
from typing import Literal

from slhf.wire import Role
from slhf_server.deadline import Deadline
from slhf_server.model import ChatModel, Sampling, Turn
from slhf_server.stops import StopRule

Endpoint = Literal["chat", "refine"]
Deltas = Literal["none", "last", "all"]
"""Which rounds somebody reads while they are generated."""


@dataclass(frozen=True, slots=True)
class Player:
    """A role, who plays it, and how it samples."""

    role: Role
    model: ChatModel
    sampling: Sampling


@dataclass(frozen=True, slots=True, eq=False)  # two jobs are never the same one
class Job:
    id: str
    endpoint: Endpoint
    model: str
    """The served model's name."""
    turns: tuple[Turn, ...]
    """The conversation x, ending with a user's turn."""
    draft: str | None
    """y_0 from the client; None: the Leader writes it."""
    rounds: int
    leader: Player | None
    """None only where a draft is given."""
    follower: Player
    follower_turn: str
    received: float
    """`time.perf_counter()` when the request was planned: durations include its time in the queue."""
    deadline: Deadline
    max_total_tokens: int
    fail_on_error: bool = False
    stops: tuple[StopRule, ...] = ()
    deltas: Deltas = "none"
    counts_tokens: bool = False
    """Count tokens as they come although nobody reads along: a round that a deadline cuts is then billed exactly."""

    def streams(self, number: int) -> bool:
        """Whether somebody reads this round while it is generated."""
        return self.deltas == "all" or (self.deltas == "last" and number == self.rounds)

    def wants_pieces(self, number: int) -> bool:
        """Whether this round's model should give pieces, not only the whole."""
        return self.counts_tokens or self.streams(number)

    def answers_with(self, number: int) -> bool:
        """Whether this round's pieces reach the client as the answer itself, so that they cannot be taken back."""
        return self.endpoint == "chat" and self.deltas != "none" and number == self.rounds
