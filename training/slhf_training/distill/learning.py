"""What the teachers write becomes lessons, and the adapter learns them by a loss of whole distributions."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slhf_training.errors import DataError
from slhf_training.evaluation.answers import Answer
from slhf_training.evaluation.generation import BundlePolicies
from slhf_training.evaluation.statistics import edit
from slhf_training.fit import Run
from slhf_training.fit.optimisation import AdapterTrainer
from slhf_training.models.prompts import Prompts
from slhf_training.models.scoring import answer_logits, right_padded, together
from slhf_training.preference import Preference
from slhf_training.types import Chat, Ids, Probabilities, Role

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DraftedChat:
    chat: Chat
    draft: Answer


@dataclass(frozen=True, slots=True)
class Candidates:
    """A draft and what can be learnt as the answer to it."""

    drafted: DraftedChat
    refined: tuple[Answer, ...]
    """The Follower's answers to it."""


@dataclass(frozen=True, slots=True)
class DistillationExample:
    role: Role
    prompt: Ids
    answer: Ids
    share: float = 0.0
    """How much of the target is the answer's own tokens; the rest is the teacher's distribution."""


def leader_examples(
    chats: Sequence[Chat], answers: Sequence[Answer], prompts: Prompts, end: int, most: int
) -> list[DistillationExample]:
    """Return an example for each answered chat whose prompt has at most `most` tokens.

    Raises DataError where nothing is left.
    """
    found = [
        DistillationExample("leader", prompt, ids)
        for chat, answer in zip(chats, answers, strict=True)
        if (ids := ids_of(answer, prompts, end)) and len(prompt := prompts.leader(chat)) <= most
    ]
    return _some(found, len(chats), "leader")


def follower_examples(
    groups: Sequence[Candidates], chosen: Sequence[int | None], share: float, prompts: Prompts, end: int, most: int
) -> list[DistillationExample]:
    """Return an example for each draft that was refined.

    `chosen` is the place of the most preferred answer, whose own tokens are `share` of the target. Where it is None,
    the first answer is learnt, and its target is the teacher's distribution alone. Raises DataError where nothing is
    left.
    """
    found = []
    for group, best in zip(groups, chosen, strict=True):
        ids = ids_of(group.refined[best or 0], prompts, end)
        prompt = prompts.follower(group.drafted.chat, prompts.ids(group.drafted.draft.text or ""))
        if ids and len(prompt) <= most:
            found.append(DistillationExample("follower", prompt, ids, 0.0 if best is None else share))
    return _some(found, len(groups), "follower")


def ids_of(answer: Answer, prompts: Prompts, end: int) -> Ids:
    """Return the answer's ids as a model would write them, with its end unless it was cut; empty if there is none."""
    if answer.text is None or answer.finish in ("kept", "refused"):
        return ()
    ids = prompts.ids(answer.text)
    return (*ids, end) if answer.finish == "stop" else ids


def choose(groups: Sequence[Candidates], preference: Preference, edit_cost: float = 0.0) -> list[int | None]:
    """Return the place of each draft's best refinement; None where no pair of its refinements was judged.

    The best one has the highest mean preference over the others, less `edit_cost` times the share of its words that
    are not the draft's. The draft itself cannot be chosen: that it is best for one prompt in ten teaches the Follower
    to copy everywhere (docs/experiments/repairs-and-choice.md).
    """
    chats: list[Chat] = []
    first: list[str] = []
    second: list[str] = []
    places: list[tuple[int, int, int]] = []  # the group, and two of its answers
    for number, group in enumerate(groups):
        for a, b in combinations(range(len(group.refined)), 2):
            one, two = group.refined[a].text, group.refined[b].text
            if one is not None and two is not None:
                chats.append(group.drafted.chat)
                first.append(one)
                second.append(two)
                places.append((number, a, b))
    tables = [np.full((len(group.refined),) * 2, np.nan) for group in groups]
    for (number, a, b), p in zip(places, preference(chats, first, second), strict=True):
        tables[number][a, b], tables[number][b, a] = p, 1 - p
    return [_best(table, edit_cost * _edits(group)) for group, table in zip(groups, tables, strict=True)]


def _best(table: Probabilities, costs: Probabilities) -> int | None:
    judged = ~np.isnan(table)
    means = np.where(judged, table, 0).sum(axis=1) / judged.sum(axis=1).clip(min=1)
    return int((means - costs).argmax()) if judged.any() else None


def _edits(group: Candidates) -> Probabilities:
    """(S,): the edit ratio of each refinement."""
    draft = group.drafted.draft.text or ""
    return np.array([edit(draft, answer.text or "").ratio for answer in group.refined], dtype=np.float64)


def _some(found: list[DistillationExample], asked: int, role: Role) -> list[DistillationExample]:
    if not found:
        raise DataError(f"{role}: none of {asked} prompts fits max_prompt_tokens and was answered")
    if asked > len(found):
        _LOG.warning(
            "%s: %d of %d were not answered or need more tokens, and were dropped", role, asked - len(found), asked
        )
    return found


class Distiller(AdapterTrainer):
    """A step is `optimisation.batch_size` lessons, both roles' together, in passes of like length."""

    def __init__(
        self,
        student: Any,
        teachers: Mapping[Role, BundlePolicies],
        lessons: Sequence[DistillationExample],
        settings: Run,
        temperature: float,
    ) -> None:
        super().__init__(student, lessons, settings)
        self._teachers, self._temperature = teachers, temperature
        self._optimisation = settings.optimisation
        self._length = sum(len(lesson.answer) for lesson in lessons) / len(lessons)

    def learn(self, items: Sequence[DistillationExample]) -> Tensor:
        prompts, lengths = [one.prompt for one in items], [len(one.answer) for one in items]
        total = torch.zeros((), device=self.args.device)
        for part in together(prompts, lengths, self._optimisation.micro_batch_size, self.args.device):
            loss = self._loss([items[place] for place in part]) / len(items)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _loss(self, lessons: Sequence[DistillationExample]) -> Tensor:
        """Return the sum of these lessons' losses."""
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
    def _taught(self, lessons: Sequence[DistillationExample], like: Tensor) -> Tensor:
        """(B, T, V): log-probs of the whole vocabulary before each token, by the teacher of the lesson's role."""
        found = torch.zeros_like(like)
        for role, teacher in self._teachers.items():
            places = [place for place, lesson in enumerate(lessons) if lesson.role == role]
            if places:
                theirs = [lessons[place] for place in places]
                prompts, answers = [one.prompt for one in theirs], [one.answer for one in theirs]
                logits = answer_logits(teacher.merged(role), prompts, answers, like.device)
                found[places, : logits.shape[1]] = (logits / self._temperature).log_softmax(dim=-1)
        return found

    def _note(self, lessons: Sequence[DistillationExample], kl: Tensor, chosen: Tensor) -> None:
        """Keep for the log the KL of each answer, and the nats of each token of chosen answers."""
        for lesson, nats in zip(lessons, kl.sum(dim=1).tolist(), strict=True):
            self.pending[f"{lesson.role}/kl"].append(nats)
        self.pending["chosen/nats_per_token"] += chosen.tolist()
