"""From a step's rows to gradients: rewards, advantages, and one loss in micro-batches of one role.

The Follower comes first: its log-ratios, which its own pass gives, are part of the Leader's rewards.

A process with fewer micro-batches than another makes idle passes: all take part in gathering the weights of a sharded
model. Their gradients are zero.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.helpers import disable_input_dtype_casting
from torch import Tensor

from slhf_training.fit import FitSettings
from slhf_training.fit.algorithms import Episode, EpisodeReturn, advantages
from slhf_training.fit.loss import Loss, reinforce
from slhf_training.fit.step import Clock
from slhf_training.models.roles import Roles
from slhf_training.models.scoring import answer_log_probs, right_padded, together
from slhf_training.types import Role

Gather = Callable[[list[Any]], list[Any]]
"""A list of every process's items, from this one's."""
ORDER: tuple[Role, ...] = ("follower", "leader")


@dataclass(slots=True)
class StepResult:
    loss: float = 0.0
    """This process's share: the shares of all processes add up to the loss."""
    log_ratio: dict[int, float] = field(default_factory=dict)
    """By id() of the answer."""
    kl: dict[Role, list[float]] = field(default_factory=dict)
    grad_norm: dict[str, float] = field(default_factory=dict)
    drift: float = 0.0
    """Sum of |log-prob here - when sampled| over all tokens that were learnt from, in nats."""
    tokens: int = 0
    """How many those are."""
    abstained: int = 0
    is_skipped: bool = False
    """The gradient was not finite."""

    def add(self, role: Role, rows: Sequence[Episode], loss: Loss) -> None:
        self.loss += loss.loss.item()
        tokens = sum(len(row.answer.sample.ids) for row in rows)
        self.tokens += tokens
        self.drift += loss.gap.item() * tokens
        ratios = loss.log_ratio.tolist()
        self.log_ratio.update((id(row.answer), ratio) for row, ratio in zip(rows, ratios, strict=True))
        self.kl.setdefault(role, []).extend(loss.kl.tolist())


class Learner:
    def __init__(self, roles: Roles, settings: FitSettings, clock: Clock, gather: Gather = list) -> None:
        self._roles = roles
        self._settings = settings
        self._clock = clock
        self._gather = gather
        self._is_autocast = settings.optimisation.autocast != "none"

    def learn(self, rows: Sequence[Episode], leader_too: bool = True) -> StepResult:
        """Add the gradient of these rows to the trained parameters' `.grad`."""
        # peft would make float32 of what a layer reads, and autocast a copy of that in bfloat16, which is kept.
        with disable_input_dtype_casting(self._roles.model, self._is_autocast):
            return self._learn(rows, leader_too)

    def _learn(self, rows: Sequence[Episode], leader_too: bool) -> StepResult:
        result = StepResult(abstained=sum(math.isnan(row.reward) for row in rows))
        taus = {id(row.answer): row.tau for row in rows}
        for role in ORDER if leader_too else ORDER[:1]:
            of_role = [row for row in rows if row.role == role]
            batches = self._micro_batches([row for row in of_role if not math.isnan(row.reward)])
            idle = [of_role[:1]] * (max(self._gather([len(batches)])) - len(batches))
            with self._clock("reference"), torch.no_grad():
                references = [self._log_probs(self._roles.use_reference(), batch) for batch in batches]
                for batch in idle:
                    self._log_probs(self._roles.use_reference(), batch)
            graded = [
                [
                    self._graded(row, _bonus(row, result, taus), log_probs)
                    for row, log_probs in zip(batch, reference.tolist(), strict=True)
                ]
                for batch, reference in zip(batches, references, strict=True)
            ]
            pool = self._gather(list(itertools.chain(*graded)))
            weight = self._kappa(role) / max(len(pool), 1)  # the loss is the mean over all processes' rows
            for batch, reference, grades in zip(batches, references, graded, strict=True):
                advantage = advantages(grades, self._leave_one_out, pool)
                result.add(role, batch, self._backward(role, batch, reference, advantage, weight))
            for batch in idle:
                nothing = 0.0 * self._log_probs(self._roles.use(role), batch).sum()
                nothing.backward()  # type: ignore[no-untyped-call]
        return result

    def _micro_batches(self, rows: Sequence[Episode]) -> list[list[Episode]]:
        answers = [row.answer for row in rows]
        lengths = [len(answer.sample.ids) for answer in answers]
        size = self._settings.optimisation.micro_batch_size
        batches = together([answer.prompt for answer in answers], lengths, size, self._roles.device)
        return [[rows[i] for i in batch] for batch in batches]

    @property
    def _leave_one_out(self) -> bool:
        return self._settings.plays.leave_one_out or self._settings.game.baseline == "leave_one_out"

    def _backward(
        self, role: Role, rows: Sequence[Episode], reference: Tensor, advantage: list[list[float]], weight: float
    ) -> Loss:
        game = self._settings.game
        with self._clock("forward_backward"):
            log_probs = self._log_probs(self._roles.use(role), rows)
            found = reinforce(
                log_probs,
                reference,
                right_padded([row.answer.sample.logps for row in rows], log_probs.device, log_probs.dtype),
                torch.tensor([len(row.answer.sample.ids) for row in rows], device=log_probs.device),
                right_padded(advantage, log_probs.device, log_probs.dtype)[:, : log_probs.shape[1]],
                log_probs.new_full((len(rows),), weight),
                log_probs.new_tensor([row.tau for row in rows]),
                game.kl,
                game.kl_estimator,
                game.importance_cap,
            )
            found.loss.backward()  # type: ignore[no-untyped-call]
        return found

    def _graded(self, row: Episode, bonus: float, reference: Sequence[float]) -> EpisodeReturn:
        """By the sampler's log-probs: good enough for a baseline, and there before the pass. `reference` is padded."""
        sampled = row.answer.sample.logps
        ratios = [ours - theirs for ours, theirs in zip(sampled, reference[: len(sampled)], strict=True)]
        to_go = [*itertools.accumulate(reversed(ratios), initial=0.0)][::-1]
        if self._settings.game.kl != "to_go":
            to_go = [to_go[0]] * len(to_go)
        reward = row.reward + bonus
        return EpisodeReturn(row.group, reward, tuple(reward - row.tau * kl for kl in to_go))

    def _log_probs(self, model: Any, rows: Sequence[Episode]) -> Tensor:
        with self._precision():
            return answer_log_probs(
                model,
                [row.answer.prompt for row in rows],
                [row.answer.sample.ids for row in rows],
                self._settings.rollout.temperature,
                self._roles.device,
            )

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self._roles.device.type, dtype=torch.bfloat16, enabled=self._is_autocast)

    def _kappa(self, role: Role) -> float:
        """With separate adapters Adam cancels a loss's weight: there kappa multiplies the learning rate instead."""
        is_shared = self._roles.weights != "separate"
        return self._settings.game.kappa if role == "follower" and is_shared else 1.0


def _bonus(row: Episode, result: StepResult, taus: dict[int, float]) -> float:
    """tau_F * log-ratio_F of the replies that the Leader's answer met, their mean."""
    paid = [taus[id(reply)] * result.log_ratio[id(reply)] for reply in row.opponents]
    return sum(paid) / len(paid) if paid else 0.0
