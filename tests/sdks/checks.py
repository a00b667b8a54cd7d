"""What every Python check shares: where the server is, what it answers, and how a list of checks is run.

The check files run in their libraries' environments, so this file needs nothing but Python.
"""

import asyncio
import contextlib
import inspect
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator

URL = os.environ.get("SLHF_BASE_URL", "http://127.0.0.1:8000")
BASE_URL = f"{URL}/v1"
KEY = "none"
MODEL = "fake"
UNKNOWN = "unknown-model"

QUESTION = "why is the sky blue?"
ANSWER = f"better draft of: {QUESTION}"
COMPLETION_TOKENS = int(os.environ.get("SLHF_COMPLETION_TOKENS", "15"))
"""The fake counts words: 7 of the Leader's draft and 8 of the answer. A remote engine's tokens are others."""
BREAK = "break"
"""A question that the Follower starts to answer and then fails at (server.py)."""
LOOK_UP, LOOKED_UP = "how is the weather, and what time is it?", "It is sunny at noon."
"""A question for which the Leader calls two tools, if it can, and what it says once their results are there."""
CALLS_TOOLS = os.environ.get("SLHF_CALLS_TOOLS", "1") == "1"
FAILURE = os.environ.get("SLHF_FAILURE", "the engine failed")
REFINE = {"draft": "Because it is.", "rounds": 2}
REFINED = "better better Because it is."

Check = Callable[[], None] | Callable[[], Awaitable[None]]


def same_text(pieces: Iterable[str], text: str = ANSWER) -> None:
    """Asserts that the pieces join to the text, and that it did not come in one."""
    said = [piece for piece in pieces if piece]
    assert "".join(said) == text, said
    assert len(said) > 1, said


class Raised:
    """What `raises` caught."""

    error: BaseException


@contextlib.contextmanager
def raises(kind: type[BaseException]) -> Iterator[Raised]:
    """As pytest's, which these environments lack."""
    raised = Raised()
    try:
        yield raised
    except kind as error:
        raised.error = error
    else:
        raise AssertionError(f"{kind.__name__} was not raised")


def main(**parts: list[Check]) -> None:
    """Runs every check of the part that the command line names; exits 1 where one failed."""
    failed = 0
    for check in parts[sys.argv[1]]:
        try:
            outcome = check()
            if inspect.iscoroutine(outcome):
                asyncio.run(outcome)
        except Exception:  # noqa: BLE001 - whatever a library raises, the next check still runs
            failed += 1
            sys.stdout.write(f"{check.__name__}\n{traceback.format_exc()}\n")
    sys.stdout.write(f"{len(parts[sys.argv[1]]) - failed} passed, {failed} failed\n")
    sys.exit(1 if failed else 0)
