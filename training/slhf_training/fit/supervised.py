"""What every supervised training of one adapter has in common: transformers' Trainer around one method, `learn`."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PrinterCallback, Trainer

from slhf_training.fit.clipping import Clip
from slhf_training.fit.progress import Progress
from slhf_training.fit.settings import Run
from slhf_training.fit.trainer import training_arguments


class AdapterTrainer(Trainer):  # type: ignore[misc]
    """A step is `optimisation.batch_size` items."""

    def __init__(self, student: Any, items: Sequence[Any], settings: Run) -> None:
        super().__init__(
            model=student,
            args=training_arguments(settings),
            train_dataset=[{"item": item} for item in items],
            data_collator=lambda rows: {"items": [row["item"] for row in rows]},
            callbacks=[Progress()],
        )
        self.remove_callback(PrinterCallback)
        self._clip = Clip(settings.optimisation.max_grad_norm, settings.output_dir)
        self.pending: dict[str, list[float]] = defaultdict(list)
        """Figures of the steps since the last log; their means are logged."""

    def learn(self, items: Sequence[Any]) -> Tensor:
        """Add up the step's gradients; returns its loss."""
        raise NotImplementedError

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        total = self.learn(inputs["items"])
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        (norm,) = self._clip({"policy": trained}, self.state.global_step + 1).values()
        self.pending["grad_norm"].append(norm)
        self.pending["skipped"].append(float(self._clip.has_skipped))
        return total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs.pop("grad_norm", None)  # after clipping: ours is before
        logs |= {key: sum(values) / len(values) for key, values in self.pending.items() if values}
        self.pending.clear()
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The adapter alone: peft would look for the base model's configuration on the hub to see if it has grown."""
        self.model.save_pretrained(output_dir or self.args.output_dir, save_embedding_layers=False)

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # transformers' estimate reads tensors


def checkpoint_gradients(model: Any, settings: Run) -> None:
    """Where the settings ask for it."""
    if settings.optimisation.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
