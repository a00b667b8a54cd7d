"""Samples of a model for lessons, and which of them pass their check."""

from collections.abc import Iterable, Sequence

from slhf_training.checks.registry import check_of, passed_all
from slhf_training.data import Example
from slhf_training.evaluation.answers import Answer, Store
from slhf_training.evaluation.generation import Teacher, Wanted
from slhf_training.evaluation.prompts import prompt_id
from slhf_training.lessons.settings import Samples
from slhf_training.types import Message


class Sampler:
    """Answers of the model that the settings name; none where they name none."""

    def __init__(self, teacher: Teacher | None, samples: Samples | None, store: Store) -> None:
        self._teacher, self._store = teacher, store
        self._count = samples.count if samples else 0
        self._turns = [Message(role=turn.role, content=turn.content) for turn in samples.turns] if samples else []

    def passing(self, examples: Sequence[Example], *, refined: bool) -> list[list[str]]:
        """Return for each example the answers (to its draft, if `refined`) that came to their end and pass."""
        written = self.all(examples, refined=refined)
        asked = [example for example, texts in zip(examples, written, strict=True) for _ in texts]
        right = iter(passed(asked, [text for texts in written for text in texts]))
        return [[text for text in texts if next(right)] for texts in written]

    def all(self, examples: Sequence[Example], *, refined: bool) -> list[list[str]]:
        """Return for each example the answers that came to their end, each text once."""
        if self._teacher is None:
            return [[] for _ in examples]
        numbers = range(self._count)
        asked = [(e.chat, e.draft) if refined else ([*self._turns, *e.chat], None) for e in examples]
        wanted = [Wanted(chat, draft, number) for chat, draft in asked for number in numbers]
        answers = self._teacher.write(wanted, self._store)
        texts = [answers[i : i + self._count] for i in range(0, len(answers), self._count)]
        return [list(dict.fromkeys(text for answer in of if (text := _finished(answer)))) for of in texts]


def passed(examples: Sequence[Example], texts: Sequence[str]) -> list[bool]:
    """Return whether each text passes its example's check; without a check, any text passes that is not empty."""
    pairs = [(check_of(e.check), text) for e, text in zip(examples, texts, strict=True) if e.check is not None]
    found = iter(passed_all([check for check, _ in pairs], [text for _, text in pairs]))
    return [bool(text) if e.check is None else next(found) for e, text in zip(examples, texts, strict=True)]


def one_of_each(examples: Iterable[Example], *, by_draft: bool = False) -> list[Example]:
    """Return the first example of each prompt, or of each prompt and draft."""
    found: dict[tuple[str, str | None], Example] = {}
    for example in examples:
        found.setdefault((prompt_id(example.chat), example.draft if by_draft else None), example)
    return list(found.values())


def _finished(answer: Answer) -> str | None:
    return answer.text if answer.finish == "stop" else None
