"""Shadow mode of a served model: its clients get drafts, and a share of them is refined and judged for nobody."""

from pydantic import Field

from slhf_server.settings.sections import Section


class ShadowSettings(Section):
    """How much is refined in the shadow, who judges it, and when it ends."""

    judge: str
    """Names one of `judges`."""
    share: float = Field(default=0.05, gt=0, le=1)
    """Of the requests that could be refined. Which ones, their ids decide."""
    days: float = Field(default=7, gt=0)
    """After so many nothing more is refined in the shadow; the next two end it as well, whichever comes first."""
    tokens: int = Field(default=2_000_000, gt=0)
    """Of refinements and of the judge, prompts included."""
    verdicts: int = Field(default=400, gt=0)
    """Wins, ties and losses."""
    concurrent: int = Field(default=2, gt=0)
    """Refinements at once."""
    when_idle: bool = False
    """Play only while no client waits for an answer. What has begun is given up when a request comes, and begins again
    afterwards."""
