"""Named ways to refine: what the Follower is told besides, how often, and how it samples."""

import re

from pydantic import Field

from slhf_server.settings.sections import Section

NO_PROFILE = "none"
"""What a request or a key names that wants none."""


class Profile(Section):
    """Stands in for what a request's `refine` leaves out; what is null here is left to the model."""

    instruction: str | None = Field(default=None, min_length=1)
    """Appended to the Follower's turn, as a request's."""
    rounds: int | None = Field(default=None, ge=0)
    """Follower rounds."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """The Follower's, as the next two."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, gt=0)
    """Of one round."""


def profile_name(name: str) -> str:
    """The name, if clients can ask for it. Raises ValueError."""
    if name == NO_PROFILE:
        raise ValueError(f"{name!r} means no profile: call it something else")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise ValueError("a profile's name has at most 64 letters, digits, '.', '_' and '-'")
    return name
