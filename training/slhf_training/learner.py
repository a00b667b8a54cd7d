"""From a step's rows to gradients: rewards, advantages, and one loss in micro-batches of one role.

The Follower comes first: its log-ratios, which its own pass gives, are part of the Leader's rewards.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from slhf_training.algorithms import Graded, Row, advantages
from slhf_training.clock import Clock
from slhf_training.loss import Loss, reinforce
from slhf_training.roles import Role, Roles
from slhf_training.scoring import answer_log_probs, right_padded
from slhf_training.settings import FitSettings

Gather = Callable[[list[Any]], list[Any]]
"""A list of every process's items, from this one's."""
ORDER: tuple[Role, ...] = ("follower", "leader")


@dataclass(slots=True)
class Learnt:
    loss: float = 0.0
    """This process's share: the shares of all processes add up to the loss."""
    log_ratio: dict[int, float] = field(default_factory=dict)
    """By id() of the answer."""
    kl: dict[Role, float] = field(default_factory=dict)
    grad_norm: dict[str, float] = field(default_factory=dict)
    gaps: list[float] = field(default_factory=list)
    """Mean |log-prob here - when sampled| per token, of each micro-batch."""
    abstained: int = 0


class Learner:
    def __init__(self, roles: Roles, settings: FitSettings, clock: Clock, gather: Gather = list) -> None:
        self._roles = roles
        self._settings = settings
        self._clock = clock
        self._gather = gather

    def learn(self, rows: Sequence[Row], leader_too: bool = True) -> Learnt:
        """Add the gradient of these rows to the trained parameters' `.grad`."""
        learnt = Learnt(abstained=sum(math.isnan(row.reward) for row in rows))
        taus = {id(row.answer): row.tau for row in rows}
        for role in ORDER if leader_too else ORDER[:1]:
            mine = [row for row in rows if row.role == role and not math.isnan(row.reward)]
            graded = [(row.group, row.reward + _bonus(row, learnt, taus)) for row in mine]
            pool = self._gather(graded)
            self._role(role, mine, self._advantages(graded, pool), len(pool), learnt)
        return learnt

    def _advantages(self, graded: Sequence[Graded], pool: Sequence[Graded]) -> list[float]:
        settings = self._settings
        leave_one_out = settings.algorithm == "rloo" or settings.game.baseline == "leave_one_out"
        return advantages(graded, leave_one_out, pool)

    def _role(self, role: Role, rows: Sequence[Row], advantage: list[float], count: int, learnt: Learnt) -> None:
        """`count`: rows of this role over all processes; the loss is their mean."""
        weight = self._kappa(role) / max(count, 1)
        kls: list[float] = []
        order = sorted(
            range(len(rows)), key=lambda i: _length(rows[i]), reverse=True
        )  # less padding; the longest first
        size = self._settings.optimisation.micro_batch_size
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            batch = [rows[i] for i in chosen]
            loss = self._micro_batch(role, batch, [advantage[i] for i in chosen], weight)
            learnt.loss += loss.loss.item()
            learnt.gaps.append(loss.gap.item())
            ratios = loss.log_ratio.tolist()
            learnt.log_ratio.update((id(row.answer), ratio) for row, ratio in zip(batch, ratios, strict=True))
            kls += loss.kl.tolist()
        if kls:
            learnt.kl[role] = sum(kls) / len(kls)

    def _micro_batch(self, role: Role, rows: Sequence[Row], advantage: list[float], weight: float) -> Loss:
        game, device = self._settings.game, self._roles.device
        with self._clock("reference"), torch.no_grad():
            reference = self._log_probs(self._roles.use_reference(), rows)
        with self._clock("forward_backward"):
            log_probs = self._log_probs(self._roles.use(role), rows)
            dtype = log_probs.dtype
            loss = reinforce(
                log_probs,
                reference,
                right_padded([row.answer.sample.logps for row in rows], device, dtype),
                torch.tensor([len(row.answer.sample.ids) for row in rows], device=device),
                torch.tensor(advantage, device=device, dtype=dtype),
                torch.full((len(rows),), weight, device=device, dtype=dtype),
                torch.tensor([row.tau for row in rows], device=device, dtype=dtype),
                game.kl,
                game.kl_estimator,
                game.importance_cap,
            )
            loss.loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def _log_probs(self, model: Any, rows: Sequence[Row]) -> Tensor:
        with self._precision():
            return answer_log_probs(
                model,
                [row.answer.prompt for row in rows],
                [row.answer.sample.ids for row in rows],
                self._settings.rollout.temperature,
                self._roles.device,
            )

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self._settings.optimisation.autocast == "none":
            return contextlib.nullcontext()
        return torch.autocast(self._roles.device.type, dtype=torch.bfloat16)

    def _kappa(self, role: Role) -> float:
        """With separate adapters Adam cancels a loss's weight: there kappa multiplies the learning rate instead."""
        is_shared = self._roles.adapter_of["leader"] == self._roles.adapter_of["follower"]
        return self._settings.game.kappa if role == "follower" and is_shared else 1.0


def _bonus(row: Row, learnt: Learnt, taus: dict[int, float]) -> float:
    """tau_F * log-ratio_F of the reply that the Leader's answer met."""
    return 0.0 if row.opponent is None else taus[id(row.opponent)] * learnt.log_ratio[id(row.opponent)]


def _length(row: Row) -> int:
    return len(row.answer.prompt) + len(row.answer.sample.ids)
