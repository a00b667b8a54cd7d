"""A fake engine whose Leader is a judge, too, and the settings of a model in shadow mode."""

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slhf_server.errors import RequestError
from slhf_server.models.base import Chunk, SamplingParams, Turn
from slhf_server.models.fake import FakeEngine, FakeModel, Said, improve

_ANSWERS = re.compile(r"\[Answer A\]\n(.*)\n\n\[Answer B\]\n(.*)\n\nWhich answer", re.DOTALL)
Choice = Callable[[str, str], str | RequestError]
"""Which letter the judge says of two answers."""


def likes_better(a: str, b: str) -> str:
    """The letter of the text that was refined more often."""
    return "A" if a.count("better") > b.count("better") else "B"


class Lettered(FakeModel):
    """A model that gives no log-probabilities, so that its letter counts as it stands."""

    async def stream(
        self, turns: Sequence[Turn], sampling: SamplingParams, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        async for chunk in super().stream(turns, sampling, request_id=request_id, deltas=deltas):
            yield replace(chunk, logprobs=())


def judging_engine(
    choice: Choice = likes_better, reply: Callable[[Sequence[Turn]], Said] = improve, token_seconds: float = 0.0
) -> FakeEngine:
    def said(turns: Sequence[Turn]) -> Said:
        asked = _ANSWERS.search(turns[-1].text)
        return reply(turns) if asked is None else choice(asked[1], asked[2])

    engine = FakeEngine(reply, token_seconds=token_seconds)
    engine.leader = Lettered("fake", said, token_seconds=token_seconds, max_model_len=4096)
    return engine


def shadowed(folder: Path, share: float = 1.0, **more: Any) -> dict[str, Any]:
    """Settings of a server whose model `fake` is in shadow mode; keys of `shadow` may be given."""
    shadow = {"judge": "house", "share": share} | more
    return {
        "verdicts_file": str(folder / "verdicts.db"),
        "judges": {"house": {"engine": "own"}},
        "models": {"fake": {"rounds": 2, "shadow": shadow}},
    }
