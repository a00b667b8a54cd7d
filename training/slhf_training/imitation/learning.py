"""The adapter learns targets: transformers' Trainer with the cross-entropy of their tokens."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer

from slhf_training.clipping import Clip
from slhf_training.imitation.layers import HalvedModel
from slhf_training.imitation.lessons import Lesson
from slhf_training.progress import Progress
from slhf_training.settings import Run
from slhf_training.trainer import training_arguments


class Imitator(Trainer):  # type: ignore[misc]
    """A step is `optimisation.batch_size` lessons, one pass each: a CPU gains nothing from padding them together."""

    def __init__(self, student: Any, first_layer: int, lessons: Sequence[Lesson], settings: Run) -> None:
        """`student`: a peft model whose adapter is on layers from `first_layer` on."""
        super().__init__(
            model=student,
            args=training_arguments(settings),
            train_dataset=[{"number": number} for number in range(len(lessons))],
            data_collator=lambda rows: {"numbers": [row["number"] for row in rows]},
            callbacks=[Progress()],
        )
        self.remove_callback(PrinterCallback)
        self._lessons = lessons
        self._halved = HalvedModel(student.get_base_model(), first_layer)
        self._states: dict[int, Tensor] = {}  # by lesson: (T, H), of the layers that do not learn
        self._keeps = first_layer > 0
        self._length = sum(len(lesson.target) for lesson in lessons) / len(lessons)
        self._clip = Clip(settings.optimisation.max_grad_norm, settings.output_dir)
        self._autocast = settings.optimisation.autocast == "bfloat16"
        self._pending: dict[str, list[float]] = defaultdict(list)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        model.eval()  # no dropout
        total = torch.zeros((), device=self.args.device)
        for number in inputs["numbers"]:
            loss = self._loss(number) / len(inputs["numbers"])
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        (norm,) = self._clip({"policy": trained}, self.state.global_step + 1).values()
        self._pending["grad_norm"].append(norm)
        self._pending["skipped"].append(float(self._clip.has_skipped))
        return total

    def _loss(self, number: int) -> Tensor:
        lesson = self._lessons[number]
        device = self.args.device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._autocast):
            logits = self._halved.logits(self._states_of(number), len(lesson.target))
        target = torch.tensor(lesson.target, device=device)
        nats = torch.nn.functional.cross_entropy(logits, target, reduction="none")  # (T,)
        self._pending[f"{lesson.role}/nats_per_token"] += nats.tolist()
        self._pending[f"{lesson.role}/first_token_nats"].append(nats[0].item())
        # By the mean length of all targets and not by each one's own, which would make a short one's tokens count more.
        return nats.sum() * lesson.weight / self._length

    def _states_of(self, number: int) -> Tensor:
        if number not in self._states:
            states = self._halved.states(self._lessons[number].ids)
            if not self._keeps:
                return states
            self._states[number] = states
        return self._states[number]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs.pop("grad_norm", None)  # after clipping: ours is before
        logs |= {key: sum(values) / len(values) for key, values in self._pending.items() if values}
        self._pending.clear()
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The adapter alone: peft would look for the base model's configuration on the hub to see if it has grown."""
        self.model.save_pretrained(output_dir or self.args.output_dir, save_embedding_layers=False)

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # transformers' estimate reads tensors
