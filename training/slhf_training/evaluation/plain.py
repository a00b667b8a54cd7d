"""Answers by transformers: the trainer's sampler on a bundle, for machines without vLLM and for tests.

An answer's random numbers are its own, so it does not depend on the batch. What is refined is encoded from its text. A
prompt that does not leave `max_new_tokens` of the context has no room here, where vLLM would shorten the answer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from slhf_training.errors import DataError, SettingsError
from slhf_training.evaluation.answers import NONE, Answer
from slhf_training.evaluation.generation import Keep, Task
from slhf_training.evaluation.settings import GenerationSettings
from slhf_training.models.load import end_ids_of, fast_dtype
from slhf_training.models.prompts import Prompts
from slhf_training.models.sharding import this_process
from slhf_training.rollout import RolloutSettings
from slhf_training.rollout.hf import HFRollout
from slhf_training.types import ROLES, Ids, Role

if TYPE_CHECKING:
    from slhf_training.models.bundles import OpenBundle

_COLDEST = 1e-6
"""The sampler divides by the temperature: at this one it takes the likeliest token."""


class Plain:
    """Implements `Generator`."""

    def __init__(self, name: str, bundle: "OpenBundle", how: GenerationSettings) -> None:
        """Raises SettingsError naming the model."""
        if how.temperature is None or how.max_new_tokens is None:
            raise SettingsError("generation: hf needs a temperature and max_new_tokens: it knows no bundle's defaults")
        try:
            tokenizer = AutoTokenizer.from_pretrained(bundle.weights)
            speaker = Speaker(bundle)
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


class Speaker:
    """A bundle's two roles on one model. Implements rollout.hf's `Speakers`."""

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
