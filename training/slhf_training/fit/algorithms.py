"""StackelbergGDA and its baselines: who answers whom, and what each answer is rewarded for. One function each.

SLHF (arXiv 2512.16626). With y ~ pi(.|x), y' ~ omega(.|x, y), p = p(y beats y' | x):

    Leader    reward p + tau_F * log-ratio_F(y'|y), penalty tau_L KL(pi || ref)
    Follower  reward 1 - p,                         penalty tau_F KL(omega || ref)

The Follower's KL depends on the Leader's answer, so it is part of the Leader's reward. Its estimate is the log-ratio of
the one answer y' that was sampled: at the equilibrium p + tau_F * log-ratio is the same for every y', so that this
estimate has less variance than those that are never negative.

Departures: a step may have drafts that others wrote: the Follower refines them too, for no Leader's sake. With
`rollout_rounds` R > 1 the Follower also answers its own answers, and its loss is the mean over all R. With
`replies_per_draft` K > 1 it answers each draft K times: the replies to one draft are each other's baseline, which takes
out how hard that draft is to beat, and the Leader's reward is their mean.
`rloo` needs a scalar reward, which a preference does not give: it is the preference over an answer of the reference.
`nash-md` samples its opponent from the token-by-token geometric mixture of policy and reference (Munos et al. 2023).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field, model_validator

from slhf_training.config import Section
from slhf_training.types import Ids, Player, Probabilities, Role, Sample

KL = Literal["to_go", "sequence", "token"]


Estimator = Literal["k1", "k2", "k3"]


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "kl": "token",
        "kl_estimator": "k3",
        "baseline": "half",
        "replies_per_draft": 1,
        "leader_update_every": 1,
    },
}
"""Defaults by name. `default` is what the experiments taught (docs/experiments/what-works.md); `paper` is the estimator
of published code, which is biased, and an update of both roles at each step."""


class Game(Section):
    """The objective and its estimator; slhf_training.fit.algorithms and slhf_training.fit.loss say what each means."""

    preset: Literal["default", "paper"] = "default"
    """Where the defaults of the other keys are from: those that stand here, or `paper`, which has kl token with k3,
    baseline half, one reply to each draft, and the Leader's update at each step. What is given wins over either."""
    tau_leader: float = Field(default=1e-3, ge=0)
    tau_follower: float = Field(default=1e-3, ge=0)
    kappa: float = Field(default=5.0, gt=0)
    """How much faster the Follower learns: its learning rate (separate adapters) or its loss (shared weights)."""
    baseline: Literal["half", "leave_one_out"] = "leave_one_out"
    """What is taken off a reward: 0.5, or the mean of the others: of a draft's other replies, else of the other chats'
    answers (rloo: always of the prompt's other samples)."""
    kl: KL = "to_go"
    """`token` is what published code does; it is biased and here for comparison alone."""
    kl_estimator: Estimator = "k1"
    """Used by `kl: token` alone; the unbiased forms are log-ratios."""
    eos_penalty: float = Field(default=0.5, ge=0, le=1)
    """Taken off the preference for an answer that did not end, given to one that met such an opponent."""
    rollout_rounds: int = Field(default=1, gt=0)
    """The Follower answers the Leader, then its own answers: how many answers of the Follower are trained per chat."""
    replies_per_draft: int = Field(default=2, gt=0)
    """The Follower's answers to each draft; of several, each is the others' baseline (`leave_one_out`)."""
    leader_update_every: int = Field(default=2, gt=0)
    """Steps of the Follower for each step of the Leader, which has the easier task and learns first."""
    importance_cap: float | None = Field(default=2.0, gt=0)
    """A token counts by min(its probability here / when sampled, this cap): 1 where the sampler is the trainer, and a
    correction where it is not quite (rollout.dtype bfloat16, vLLM); fit/loss.py says what stays biased. None: every
    token counts 1."""
    samples_per_prompt: int = Field(default=2, gt=1)
    """rloo: answers per chat; each is the others' baseline."""
    mixture: float = Field(default=0.125, ge=0, le=1)
    """nash-md: the reference's share in the opponent, a geometric mixture token by token."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_preset(cls, data: Any) -> Any:
        """Fill in what is not given. A KL that is given needs no estimator of the preset's."""
        if not isinstance(data, dict) or data.get("preset") not in [*PRESETS]:
            return data
        preset = PRESETS[data["preset"]]
        if data.get("kl") not in (None, preset.get("kl")):
            preset = {key: value for key, value in preset.items() if key != "kl_estimator"}
        return data | {key: value for key, value in preset.items() if data.get(key) is None}


BaselineGroup = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    chat: int
    """Which chat of the step, counted over all processes."""
    prompt: Ids
    sample: Sample
    text: str


@dataclass(frozen=True, slots=True)
class Episode:
    """An answer that is learnt from."""

    role: Role
    answer: Completion
    reward: float
    """In [0, 1]; NaN: the judge abstained."""
    tau: float
    group: BaselineGroup
    """Rows of one group are independent given their prompts and serve as each other's baseline."""
    opponents: tuple[Completion, ...] = ()
    """The rows with these answers add tau times their mean log-ratio to this one's reward."""


class StepContext(Protocol):
    """Where a game is played. `slot` tells apart the answers to one chat in one step."""

    def answer(
        self, player: Player, slot: int, drafts: Sequence[Completion] | None = None, each: int = 1
    ) -> list[Completion]:
        """So many answers for each chat, or to each draft, side by side; a draft that stands there several times is
        answered as often. What is asked at once is sampled in one batch."""

    def given(self) -> list[Completion]:
        """Drafts that nobody here wrote."""

    def judge(self, first: Sequence[Completion], second: Sequence[Completion]) -> Probabilities:
        """p(first beats second), NaN where the judge abstains, (B,). Where the Follower answers last, drafts are the
        first and its replies the second: the log's win rates are read from that."""


def stackelberg(context: StepContext, game: Game) -> list[Episode]:
    own, given = context.answer("leader", 0), context.given()
    each = game.replies_per_draft
    answers = [[draft for draft in (*own, *given) for _ in range(each)]]
    for turn in range(1, game.rollout_rounds + 1):
        answers.append(context.answer("follower", turn, drafts=answers[-1]))
    beaten = [context.judge(first, second) for first, second in pairwise(answers)]
    leader = []
    for place, y in enumerate(own):
        met = slice(place * each, (place + 1) * each)
        p = float(beaten[0][met].mean())  # NaN where the judge abstains from one of them
        leader.append(Episode("leader", y, p, game.tau_leader, ("leader",), opponents=tuple(answers[1][met])))
    follower = []
    for turn, (replies, ps) in enumerate(zip(answers[1:], beaten, strict=True)):
        for place, (reply, p) in enumerate(zip(replies, ps, strict=True)):
            whose = "follower" if place < len(own) * each else "given"
            group: BaselineGroup = (whose, turn) if each == 1 else (whose, turn, reply.chat)
            follower.append(Episode("follower", reply, float(1 - p), game.tau_follower, group))
    return leader + follower


def rloo(context: StepContext, game: Game) -> list[Episode]:
    each = game.samples_per_prompt
    answers = context.answer("leader", 0, each=each)
    opponents = [opponent for opponent in context.answer("reference", 1) for _ in range(each)]
    return _rewarded(answers, context.judge(answers, opponents), game, lambda y: ("chat", y.chat))


def nash_md(context: StepContext, game: Game) -> list[Episode]:
    answers, opponents = context.answer("leader", 0), context.answer("mixture", 1)
    return _rewarded(answers, context.judge(answers, opponents), game, lambda y: ("leader",))


def _rewarded(
    answers: Sequence[Completion], p: Probabilities, game: Game, group: Callable[[Completion], BaselineGroup]
) -> list[Episode]:
    return [Episode("leader", y, float(r), game.tau_leader, group(y)) for y, r in zip(answers, p, strict=True)]


@dataclass(frozen=True, slots=True)
class Algorithm:
    """All that the rest of training knows about an algorithm."""

    play: Callable[[StepContext, Game], list[Episode]]
    """One step: who answers whom, and what each answer is rewarded for."""
    trains: tuple[Role, ...] = ("leader",)
    """The roles that learn. A role that does not still speaks with trained weights (of separate ones, the first
    role's): a Leader that stays fixed is the player `reference`."""
    leave_one_out: bool = False
    """An answer's baseline is the others' mean, whatever `game.baseline` says."""
    needs_mixture: bool = False
    """It samples from the mixture of policy and reference, which transformers alone can."""
    takes_drafts: bool = False
    """It has a Follower, who refines given drafts, too."""


ALGORITHMS: dict[str, Algorithm] = {
    "stackelberg": Algorithm(stackelberg, trains=("leader", "follower"), takes_drafts=True),
    "rloo": Algorithm(rloo, leave_one_out=True),
    "nash-md": Algorithm(nash_md, needs_mixture=True),
}
"""By the name in configurations. A further one is a function and a line here; tests/training/test_trainer.py then runs
it with all kinds of weights. (A module of its own could not be imported here: it needs the classes above.)"""


@dataclass(frozen=True, slots=True)
class EpisodeReturn:
    group: BaselineGroup
    reward: float
    return_to_go: tuple[float, ...]
    """By position: the reward less the KL penalty that is still to come there, which is what a good baseline predicts;
    the last one holds for what lies behind. At the equilibrium the whole worth is the same for every answer to a
    prompt, so that the others' mean leaves no variance at all."""


def advantages(
    rows: Sequence[EpisodeReturn], leave_one_out: bool, pool: Sequence[EpisodeReturn] | None = None
) -> list[list[float]]:
    """By position, as many as each row's worths: the reward less 0.5, or less the mean worth of the group's other rows
    at the same position (0.5 for one that is alone).

    What others are worth there does not depend on this row's tokens, so the gradient stays unbiased. Were it their
    whole worth, the late tokens of all rows would carry tau times the KL of whole answers: noise, and most of the
    gradient where tau is large. `pool`: the rows of every process, these included.
    """
    if not leave_one_out:
        return [[row.reward - 0.5] * len(row.return_to_go) for row in rows]
    members: dict[BaselineGroup, list[EpisodeReturn]] = defaultdict(list)
    for row in rows if pool is None else pool:
        members[row.group].append(row)
    width = max((len(row.return_to_go) for group in members.values() for row in group), default=0)
    total = {group: sum(_stretched(row.return_to_go, width) for row in of_group) for group, of_group in members.items()}
    found = []
    for row in rows:
        others = len(members[row.group]) - 1
        baseline = (total[row.group] - _stretched(row.return_to_go, width)) / others if others else np.full(width, 0.5)
        found.append((row.reward - baseline[: len(row.return_to_go)]).tolist())
    return found


def _stretched(return_to_go: Sequence[float], width: int) -> Probabilities:
    return np.pad(np.array(return_to_go), (0, width - len(return_to_go)), mode="edge")


def penalised(
    p: Probabilities, first: Sequence[Completion], second: Sequence[Completion], penalty: float
) -> Probabilities:  # (B,) -> (B,)
    """p less the penalty where the first answer did not end, plus it where the second did not, within [0, 1]."""
    unfinished = [float(not a.sample.ended) - float(not b.sample.ended) for a, b in zip(first, second, strict=True)]
    return np.clip(p - penalty * np.array(unfinished), 0.0, 1.0)
