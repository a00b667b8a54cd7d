"""The adapter learns targets: the cross-entropy of their tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from slhf_training.fit.settings import Run
from slhf_training.fit.supervised import AdapterTrainer
from slhf_training.imitation.layers import HalvedModel
from slhf_training.imitation.lessons import Lesson


class Imitator(AdapterTrainer):
    """A step's lessons have one pass each: a CPU gains nothing from padding them together."""

    def __init__(self, student: Any, first_layer: int, lessons: Sequence[Lesson], settings: Run) -> None:
        """`student`: a peft model whose adapter is on layers from `first_layer` on."""
        super().__init__(student, range(len(lessons)), settings)
        self._lessons = lessons
        self._halved = HalvedModel(student.get_base_model(), first_layer)
        self._states: dict[int, Tensor] = {}  # by lesson: (T, H), of the layers that do not learn
        self._keeps = first_layer > 0
        self._length = sum(len(lesson.target) for lesson in lessons) / len(lessons)
        self._autocast = settings.optimisation.autocast == "bfloat16"

    def learn(self, items: Sequence[int]) -> Tensor:
        self.model.eval()  # no dropout
        total = torch.zeros((), device=self.args.device)
        for number in items:
            loss = self._loss(number) / len(items)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _loss(self, number: int) -> Tensor:
        lesson = self._lessons[number]
        device = self.args.device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._autocast):
            logits = self._halved.logits(self._states_of(number), len(lesson.target))
        target = torch.tensor(lesson.target, device=device)
        nats = torch.nn.functional.cross_entropy(logits, target, reduction="none")  # (T,)
        self.pending[f"{lesson.role}/nats_per_token"] += nats.tolist()
        self.pending[f"{lesson.role}/first_token_nats"].append(nats[0].item())
        # By the mean length of all targets and not by each one's own, which would make a short one's tokens count more.
        return nats.sum() * lesson.weight / self._length

    def _states_of(self, number: int) -> Tensor:
        if number not in self._states:
            states = self._halved.states(self._lessons[number].ids)
            if not self._keeps:
                return states
            self._states[number] = states
        return self._states[number]
