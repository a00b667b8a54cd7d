"""The adapter learns from teachers: a loss of whole distributions."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from slhf_training.distill.lessons import Lesson
from slhf_training.evaluation.plain import Speaker
from slhf_training.fit.settings import Run
from slhf_training.fit.supervised import AdapterTrainer
from slhf_training.models.scoring import answer_logits, right_padded, together
from slhf_training.types import Role


class Distiller(AdapterTrainer):
    """A step is `optimisation.batch_size` lessons, both roles' together, in passes of like length."""

    def __init__(
        self,
        student: Any,
        teachers: Mapping[Role, Speaker],
        lessons: Sequence[Lesson],
        settings: Run,
        temperature: float,
    ) -> None:
        super().__init__(student, lessons, settings)
        self._teachers, self._temperature = teachers, temperature
        self._optimisation = settings.optimisation
        self._length = sum(len(lesson.answer) for lesson in lessons) / len(lessons)

    def learn(self, items: Sequence[Lesson]) -> Tensor:
        prompts, lengths = [one.prompt for one in items], [len(one.answer) for one in items]
        total = torch.zeros((), device=self.args.device)
        for part in together(prompts, lengths, self._optimisation.micro_batch_size, self.args.device):
            loss = self._loss([items[place] for place in part]) / len(items)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _loss(self, lessons: Sequence[Lesson]) -> Tensor:
        """The sum over these lessons."""
        answers = [lesson.answer for lesson in lessons]
        device = self.args.device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._optimisation.autocast == "bfloat16"):
            logits = answer_logits(self.model, [lesson.prompt for lesson in lessons], answers, device)
        log_probs = (logits / self._temperature).log_softmax(dim=-1)  # (B, T, V)
        taught = self._taught(lessons, log_probs)
        lengths = torch.tensor([len(answer) for answer in answers], device=device)
        mask = torch.arange(log_probs.shape[1], device=device) < lengths[:, None]  # (B, T)
        kl = torch.nn.functional.kl_div(log_probs, taught, reduction="none", log_target=True).sum(dim=-1)
        own = log_probs.gather(2, right_padded(answers, device, torch.long)[:, :, None])[:, :, 0]
        kl, surprise = kl.masked_fill(~mask, 0.0), -own.masked_fill(~mask, 0.0)  # (B, T)
        shares = kl.new_tensor([lesson.share for lesson in lessons])[:, None]  # (B, 1)
        self._note(lessons, kl, surprise[(shares > 0) & mask])
        # By the mean length of all answers and not by each one's own, which would make a short one's tokens count more.
        return torch.as_tensor(((1 - shares) * kl + shares * surprise).sum() / self._length)

    @torch.no_grad()
    def _taught(self, lessons: Sequence[Lesson], like: Tensor) -> Tensor:
        """(B, T, V): the teachers' log-probs."""
        found = torch.zeros_like(like)
        for role, teacher in self._teachers.items():
            places = [place for place, lesson in enumerate(lessons) if lesson.role == role]
            if places:
                theirs = [lessons[place] for place in places]
                prompts, answers = [one.prompt for one in theirs], [one.answer for one in theirs]
                logits = answer_logits(teacher.merged(role), prompts, answers, like.device)
                found[places, : logits.shape[1]] = (logits / self._temperature).log_softmax(dim=-1)
        return found

    def _note(self, lessons: Sequence[Lesson], kl: Tensor, chosen: Tensor) -> None:
        """KL of each answer, and the nats of each token of those that were chosen."""
        for lesson, nats in zip(lessons, kl.sum(dim=1).tolist(), strict=True):
            self.pending[f"{lesson.role}/kl"].append(nats)
        self.pending["chosen/nats_per_token"] += chosen.tolist()
