"""Answers that are still being written, so that what follows from one of them need not wait for the others.

A `Coming` is a completion from the start: whoever reads what was written waits for it. So an algorithm plays the same
game with it, while a Follower's request starts as its draft ends, and pairs are judged as they come.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TypeVar

from slhf_training.fit.algorithms import Completion
from slhf_training.types import Ids, Sample

A = TypeVar("A")
B = TypeVar("B")


class Coming(Completion):
    __slots__ = ("written",)
    written: "Future[Completion]"

    def __init__(self, chat: int, written: "Future[Completion]") -> None:
        object.__setattr__(self, "chat", chat)
        object.__setattr__(self, "written", written)

    @property
    def prompt(self) -> Ids:
        return self.written.result().prompt

    @property
    def sample(self) -> Sample:
        return self.written.result().sample

    @property
    def text(self) -> str:
        return self.written.result().text


def written(answer: Completion) -> "Future[Completion]":
    """Return what has the whole completion as soon as it is there."""
    return answer.written if isinstance(answer, Coming) else ready(answer)


def ready(value: A) -> "Future[A]":
    found: Future[A] = Future()
    found.set_result(value)
    return found


def then(first: "Future[A]", make: "Callable[[A], Future[B]]") -> "Future[B]":
    """Return what comes of the future that `make` makes of a result. Whatever fails on the way is its failure."""
    found: Future[B] = Future()

    def end(made: "Future[B]") -> None:
        error = made.exception()
        if error is None:
            found.set_result(made.result())
        else:
            found.set_exception(error)

    def begin(done: "Future[A]") -> None:
        try:
            made = make(done.result())
        except Exception as exc:  # noqa: BLE001  raised where the result is waited for
            found.set_exception(exc)
        else:
            made.add_done_callback(end)

    first.add_done_callback(begin)
    return found


AT_ONCE = 16
"""Fewest pairs that are judged together, unless they are the last. Judges read several at once, and one that may fail
counts its failures as a share of what it was asked."""


def as_they_come(pairs: Sequence[tuple[Completion, Completion]]) -> Iterator[list[int]]:
    """Yield the pairs' numbers in parts whose answers are written; all at once where nothing is still coming."""
    waiting = {number: [written(answer) for answer in pair] for number, pair in enumerate(pairs)}
    while waiting:
        found = [number for number, answers in waiting.items() if all(answer.done() for answer in answers)]
        if len(found) < min(AT_ONCE, len(waiting)):
            open_ones = {answer for answers in waiting.values() for answer in answers if not answer.done()}
            wait(open_ones, return_when=FIRST_COMPLETED)
        else:
            waiting = {number: answers for number, answers in waiting.items() if number not in {*found}}
            yield found
