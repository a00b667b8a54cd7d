"""Verdicts to keep, and a judge that says what it is told."""

from collections.abc import Sequence
from typing import Any

from slhf_server.models.base import Turn
from slhf_server.models.judge import Verdict
from slhf_server.verdicts.record import Record, Text


class Judging:
    """Implements `Judge`: says what it is told, or raises it; the last of it again and again."""

    name = "house"

    def __init__(self, *says: Verdict | Exception) -> None:
        self.asked: list[tuple[Sequence[Turn], str, str]] = []
        self._says = list(says) or [Verdict(p=0.8, consistent=True, prompt_tokens=20, completion_tokens=2)]

    async def compare(self, turns: Sequence[Turn], old: str, new: str, *, request_id: str) -> Verdict:
        self.asked.append((turns, old, new))
        said = self._says.pop(0) if len(self._says) > 1 else self._says[0]
        if isinstance(said, Exception):
            raise said
        return said


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
