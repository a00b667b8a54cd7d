"""What travels over HTTP of verdicts: votes, the report of a shadow, and preference pairs, as pydantic models.

A verdict says which of two texts of one refinement is better: the earlier one (as a rule the draft) or the refined one.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from slhf.wire import Section

Source = Literal["shadow", "select", "vote"]
"""Who says so: a judge about a refinement that no client got, a judge that chose an answer, or a person."""
Outcome = Literal["win", "tie", "loss", "both_bad", "abstained"]
"""Of the refined text. `both_bad` is a person's, `abstained` a judge's that gave no readable answer."""
Ballot = Literal["a", "b", "tie", "both_bad"]
Decision = Literal["on", "off", "undecided"]
"""Whether to refine: the interval lies above one half, below it, or around it."""
Ended = Literal["days", "tokens", "verdicts"]


class _Answer(BaseModel):
    """What the server writes: a newer server may say more than an older client knows."""

    model_config = ConfigDict(extra="ignore")


class VoteRequest(Section):
    """Body of `POST /v1/votes`."""

    id: StrictStr
    """The refinement's, as its answer has it."""
    vote: Ballot
    a: Annotated[StrictInt, Field(ge=0)] = 0
    """A round's number; 0 is the draft."""
    b: Annotated[StrictInt, Field(ge=0)] | None = None
    """As above; None: the round that was returned or, where that is the draft, the latest one with another text."""


class Vote(_Answer):
    """Answer of `POST /v1/votes`: the vote that now counts."""

    object: Literal["vote"] = "vote"
    id: str
    model: str
    vote: Ballot
    a: int
    b: int
    created: int
    """Unix seconds."""


class Tally(_Answer):
    """Verdicts of one kind, counted for the refined text."""

    n: int = 0
    """Wins, ties and losses; without abstentions."""
    wins: int = 0
    ties: int = 0
    """Votes that both are bad, and judges whose two orders contradict each other, included."""
    losses: int = 0
    win_rate: float | None = None
    """Wins as a share of wins and losses; None of none."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Of the win rate, at 95 %; it holds at every look, however often somebody looks."""
    matched_or_beat: float | None = None
    """Wins and ties as a share of `n`."""


class Spent(_Answer):
    refine_tokens: int = 0
    judge_tokens: int = 0


class ShadowReport(Tally):
    """Answer of `GET /v1/shadow/{model}`. The counts are of the shadow; `by` has the other sources too."""

    object: Literal["shadow.report"] = "shadow.report"
    model: str
    revision: str
    judge: str | None
    """Its name in the settings; None: the model has no shadow."""
    share: float | None
    started: int | None
    """Unix seconds; None as above."""
    ended: Ended | None
    """Which limit has been reached; None: it goes on."""
    abstained: int = 0
    consistency: float | None
    """Of the judge's verdicts in both orders, the share in which they agree."""
    length_controlled: float | None
    """The win rate at equal length."""
    by: dict[str, dict[str, Tally]]
    """Tallies by `draft_words`, `draft_source` and, of all verdicts, `source`."""
    spent: Spent
    decision: Decision


class PreferencePair(_Answer):
    """Two texts of which one was better: a row that `slhf-train` reads."""

    id: str
    """The refinement's."""
    source: Source
    messages: list[dict[str, Any]]
    chosen: str
    rejected: str


class PreferenceList(_Answer):
    """Answer of `GET /v1/preferences/{model}`, in the shape of OpenAI's lists."""

    object: Literal["list"] = "list"
    data: list[PreferencePair]
    has_more: bool
    last_id: str | None
    """What `after` says for the next page."""
    without_texts: int
    """Decisive verdicts whose texts were not kept, because `log_content` was off."""
