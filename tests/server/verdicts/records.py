"""Verdicts to keep."""

from typing import Any

from slhf_server.verdicts.record import Record, Text


def record(number: int = 1, *, texts: bool = True, **more: Any) -> Record:
    """The verdict that the refined text of the nth refinement won."""
    draft, refined = f"draft {number}", f"a better draft {number}"
    whole: dict[str, Any] = {
        "refinement": f"refine-{number}",
        "source": "shadow",
        "outcome": "win",
        "model": "fake",
        "revision": "0",
        "judge": "house",
        "key": None,
        "draft_source": "client",
        "draft": Text.of(draft, keep=texts),
        "refined": Text.of(refined, keep=texts),
        "created": 1000.0 + number,
        "p": 0.8,
        "consistent": True,
        "messages": [{"role": "user", "content": f"question {number}"}] if texts else None,
    }
    return Record(**whole | more)
