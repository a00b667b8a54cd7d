"""When to try again: what `Retry-After` asks for, and exponential backoff with full jitter.

The client and the server (for its upstreams) decide for themselves what may be repeated and how long they wait at most.
"""

import math
import re
import time
from email.utils import parsedate_to_datetime

FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 8.0
"""Seconds. A pause is drawn from zero to the first, which doubles with each attempt up to the longest."""


def backoff(attempt: int, chance: float) -> float:
    """Seconds to wait after attempt number `attempt` (from 0) has failed; `chance`, from 0 to 1, is the jitter."""
    return chance * min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0**attempt)


def retry_after(header: str) -> float | None:
    """Seconds to wait, at least 0, of a header that holds seconds or a date (RFC 9110, 10.2.3); None for any other."""
    value = header.strip()
    try:
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
            return float(value) if math.isfinite(float(value)) else None
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):  # a header that is neither, or a date that no clock shows, counts as none
        return None
