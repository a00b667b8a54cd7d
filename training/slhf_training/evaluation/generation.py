"""Writing the answers that are missing, one model at a time: whatever generates is opened as seldom as it can be.

Answers by transformers: the trainer's sampler on a bundle, for machines without vLLM and for tests.

An answer's random numbers are its own, so it does not depend on the batch. What is refined is encoded from its text. A
prompt that does not leave `max_new_tokens` of the context has no room here, where vLLM would shorten the answer.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from slhf_training.errors import DataError, SettingsError
from slhf_training.evaluation import GenerationSettings
from slhf_training.evaluation.answers import NONE, Answer, Answers, Slot, Store
from slhf_training.evaluation.prompts import Prompt, prompt_id
from slhf_training.models.load import end_ids_of, fast_dtype
from slhf_training.models.prompts import Prompts
from slhf_training.models.sharding import this_process
from slhf_training.rollout import RolloutSettings
from slhf_training.rollout.hf import HFRollout
from slhf_training.types import ROLES, Chat, Ids, Role, digest

if TYPE_CHECKING:
    from slhf_training.models.bundles import OpenBundle


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
        """Write every task's answers and hand them to `keep`; each task's come in their order, the tasks in any.

        A round that writes nothing or has no room keeps the text before it, and so do the rounds after it. A Leader
        that has no room refuses, and so do the rounds after it.
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
    """The model to open next: first one that can write all it misses and need not be opened again, else the one that
    can write most."""
    of_model = Counter(slot.chain[-1] for slot in missing)
    count = {name: sum(map(len, ready[name])) for name in ready}
    return max(ready, key=lambda name: (count[name] == of_model[name], count[name]))


def runs(answers: Answers, wanted: Iterable[Slot]) -> dict[str, list[list[Slot]]]:
    """What each model can write now: missing answers whose drafts are there, each with the rounds that follow it."""
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
    """The seed of all rounds of one writer on one prompt, which is the same in every run; each writer has another."""
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
    """A digest of its weights and sampling, so that another teacher's answers are not taken for its own."""
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


_COLDEST = 1e-6
"""The sampler divides by the temperature: at this one it takes the likeliest token."""


class Plain:
    """Implements `Generator`."""

    def __init__(self, name: str, bundle: "OpenBundle", how: GenerationSettings) -> None:
        """Raises SettingsError naming the model."""
        if how.temperature is None or how.max_new_tokens is None:
            raise SettingsError("generation: hf needs a temperature and max_new_tokens: it knows no bundle's defaults")
        if bundle.manifest.keeps_by_silence or bundle.manifest.own_answers is not None:
            raise SettingsError(f"models.{name}: generation: hf neither reads thoughts nor writes own answers")
        try:
            tokenizer = AutoTokenizer.from_pretrained(bundle.weights)
            speaker = BundlePolicies(bundle)
        except (OSError, ValueError) as exc:
            raise SettingsError(f"models.{name}: {exc}") from exc
        self._prompts = Prompts(tokenizer, bundle.manifest.follower_turn, end_ids_of(speaker.model))
        self._room = speaker.context - how.max_new_tokens
        self._batch_size = how.batch_size
        settings = RolloutSettings(
            temperature=max(how.temperature, _COLDEST), max_new_tokens=how.max_new_tokens, batch_size=how.batch_size
        )
        self._rollout = HFRollout(speaker, settings, self._prompts.end_ids)

    def write(self, tasks: Sequence[Task], keep: Keep) -> None:
        for start in range(0, len(tasks), self._batch_size):
            numbers = range(start, min(start + self._batch_size, len(tasks)))
            latest = {number: Answer(tasks[number].draft) for number in numbers}
            for place in range(max(tasks[number].answers for number in numbers)):
                due = [number for number in numbers if place < tasks[number].answers]
                latest.update(self._round(tasks, place, {number: latest[number] for number in due}))
                for number in due:
                    keep(number, place, latest[number])

    def _round(self, tasks: Sequence[Task], place: int, latest: dict[int, Answer]) -> dict[int, Answer]:
        """The next answer of each task; one that has ended early stays as it is."""
        found = {number: _kept(answer) for number, answer in latest.items()}
        for role in ROLES:
            prompts = {
                number: ids
                for number, answer in latest.items()
                if self._role(tasks[number], place) == role
                and answer.finish not in ("kept", "refused")
                and (ids := self._encoded(tasks[number], answer.text)) is not None
            }
            if prompts:
                seeds = [tasks[number].seed + tasks[number].round + place for number in prompts]
                for number, sample in zip(prompts, self._sample(prompts, role, seeds), strict=True):
                    if role == "leader" or (sample.text or "").strip():
                        found[number] = sample
        return found

    def _role(self, task: Task, place: int) -> Role:
        return "leader" if task.draft is None and place == 0 else "follower"

    def _encoded(self, task: Task, draft: str | None) -> Ids | None:
        """None: no room, or turns that the model's template refuses."""
        try:
            if draft is None:
                ids = self._prompts.leader(task.chat)
            else:
                ids = self._prompts.follower(task.chat, self._prompts.ids(draft))
        except DataError:
            return None
        return ids if len(ids) <= self._room else None

    def _sample(self, prompts: dict[int, Ids], role: Role, seeds: Sequence[int]) -> list[Answer]:
        samples = self._rollout.sample(list(prompts.values()), role, seeds)
        return [Answer(self._prompts.text(s.ids), "stop" if s.ended else "length", len(s.ids)) for s in samples]


class BundlePolicies:
    """A bundle's two roles on one model. Implements rollout.hf's `Policies`."""

    def __init__(self, bundle: "OpenBundle") -> None:
        base = AutoModelForCausalLM.from_pretrained(bundle.weights, dtype=fast_dtype())
        self.context = int(getattr(base.config, "max_position_embeddings", None) or 1 << 30)
        adapters = {role: path for role in ROLES if (path := bundle.adapter(role)) is not None}
        self.model = (_with_adapters(base, adapters) if adapters else base).eval().to(this_process().device)
        self._adapters = adapters

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    def merged(self, role: Role) -> Any:
        if not self._adapters:
            return self.model
        if role not in self._adapters:
            return self.sampling_reference()
        self.model.base_model.enable_adapter_layers()
        self.model.set_adapter(role)
        return self.model

    def sampling_reference(self) -> Any:
        if self._adapters:
            self.model.base_model.disable_adapter_layers()
        return self.model


def _with_adapters(base: Any, adapters: dict[Role, Path]) -> Any:
    from peft import PeftModel  # late: only adapters need it

    (first, path), *others = adapters.items()
    model = PeftModel.from_pretrained(base, path, adapter_name=first)
    for role, path in others:
        model.load_adapter(path, adapter_name=role)
    return model


def _kept(answer: Answer) -> Answer:
    return NONE if answer.text is None else Answer(answer.text, "kept")
