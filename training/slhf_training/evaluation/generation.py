"""Writing the answers that are missing, one model at a time: whatever generates is opened as seldom as it can be."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from tqdm import tqdm

from slhf_training.evaluation.answers import Answer, Answers, Slot
from slhf_training.evaluation.prompts import Prompt, prompt_id
from slhf_training.evaluation.store import Store
from slhf_training.types import Chat, digest

Keep = Callable[[int, int, Answer], None]
"""Takes an answer as soon as it is finished: the task's place, how many of the task's answers came before it, it."""


@dataclass(frozen=True, slots=True)
class Task:
    """Consecutive rounds of one model."""

    chat: Chat
    draft: str | None
    """What the first round refines; None: the Leader's answer comes first."""
    answers: int
    """How many to write, one upon the other."""
    seed: int
    round: int = 0
    """The first one's number. Of one chain's rounds a run that goes on writes the same as one that was not killed."""


class Generator(Protocol):
    """One model, both roles."""

    def write(self, tasks: Sequence[Task], keep: Keep) -> None:
        """Write every task's answers; each task's come in their order, the tasks in any.

        A round that writes nothing or finds no room keeps the text before it, and so do the rounds after it. A Leader
        who finds no room refuses, and so do the rounds after it.
        """


Open = Callable[[str], AbstractContextManager[Generator]]
"""Opens a model by its name in the configuration."""


def generate(answers: Answers, wanted: Sequence[Slot], prompts: Mapping[str, Prompt], seed: int, opened: Open) -> int:
    """Write what is missing of `wanted`, which holds what its answers build on; returns how many were written."""
    missing = sum(answers.get(slot) is None for slot in wanted)
    with tqdm(total=missing, unit="answer", desc="generating", dynamic_ncols=True, disable=not missing) as bar:
        while ready := runs(answers, wanted):
            model = _next(ready, [slot for slot in wanted if answers.get(slot) is None])
            with opened(model) as generator:
                while todo := runs(answers, wanted).get(model, []):
                    _write(generator, todo, answers, prompts, seed, bar)
    return missing


def _next(ready: Mapping[str, Sequence[Sequence[Slot]]], missing: Sequence[Slot]) -> str:
    """Whoever waits for nobody is done when it is closed, and so goes first; then who can write most."""
    of_model = Counter(slot.chain[-1] for slot in missing)
    count = {name: sum(map(len, ready[name])) for name in ready}
    return max(ready, key=lambda name: (count[name] == of_model[name], count[name]))


def runs(answers: Answers, wanted: Iterable[Slot]) -> dict[str, list[list[Slot]]]:
    """By model what it can write now: missing answers whose drafts are there, each with the rounds that follow it."""
    missing = {slot for slot in wanted if answers.get(slot) is None}
    found: dict[str, list[list[Slot]]] = defaultdict(list)
    for slot in wanted:
        if slot in missing and slot.before not in missing:
            run = [slot]
            while run[-1].after in missing:
                run.append(run[-1].after)
            found[slot.chain[-1]].append(run)
    return found


def _write(
    generator: Generator,
    todo: Sequence[Sequence[Slot]],
    answers: Answers,
    prompts: Mapping[str, Prompt],
    seed: int,
    bar: "tqdm[None]",
) -> None:
    tasks = [_task(run, answers, prompts[run[0].prompt], seed) for run in todo]

    def keep(task: int, place: int, answer: Answer) -> None:
        answers.put(todo[task][place], answer)
        bar.update()

    generator.write(tasks, keep)


def _task(run: Sequence[Slot], answers: Answers, prompt: Prompt, seed: int) -> Task:
    first = run[0]
    draft = None if first.before is None else answers.texts([first.before])[0]
    return Task(prompt.chat, draft, len(run), _seed(seed, answers.writer(first), first), len(first.chain) - 1)


def _seed(seed: int, writer: str, slot: Slot) -> int:
    """Of all rounds of one writer to one prompt: another writer has luck of its own, and every run draws the same."""
    return int(digest([seed, writer, slot.prompt, slot.sample])[:8], 16)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One answer of a teacher."""

    chat: Chat
    draft: str | None = None
    """What the Follower refines; None: the Leader answers."""
    sample: int = 0
    """Which of several."""


@dataclass(frozen=True, slots=True)
class Teacher:
    fingerprint: str
    """Of its weights and sampling: what another one wrote is not taken for its own."""
    seed: int
    opened: Callable[[], AbstractContextManager[Generator]]

    def write(self, wanted: Sequence[Wanted], store: Store) -> list[Answer]:
        """All answers; those that the store has are not written again."""
        keys = [digest([self.fingerprint, self.seed, prompt_id(one.chat), one.draft, one.sample]) for one in wanted]
        missing = [place for place, key in enumerate(keys) if store.get(key) is None]
        tasks = [Task(wanted[place].chat, wanted[place].draft, 1, int(keys[place][:8], 16)) for place in missing]
        if missing:
            with self.opened() as generator, tqdm(total=len(missing), unit="answer", dynamic_ncols=True) as bar:

                def keep(task: int, place: int, answer: Answer) -> None:
                    store.append({"key": keys[missing[task]], "text": answer.text, "finish": answer.finish})
                    bar.update()

                generator.write(tasks, keep)
        return [Answer(record["text"], record["finish"]) for key in keys if (record := store.get(key)) is not None]
