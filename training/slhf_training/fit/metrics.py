"""What a step reports. Keys are `role/what`; every value is a mean over the step unless its name says otherwise."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from slhf_training.fit.algorithms import Answer, Row
from slhf_training.fit.learner import Learnt
from slhf_training.fit.table import ChatTable


def of_step(table: ChatTable, rows: Sequence[Row], learnt: Learnt) -> dict[str, float]:
    found = {f"{role}/kl": _mean(kls) for role, kls in learnt.kl.items() if kls}
    found |= {f"{name}/grad_norm": norm for name, norm in learnt.grad_norm.items()}
    for role in ("leader", "follower"):
        rewards = [row.reward for row in rows if row.role == role and not math.isnan(row.reward)]
        if rewards:
            found[f"{role}/reward"] = _mean(rewards)
    for player in dict.fromkeys(player for player, _ in table.answered):
        found |= _answers(player, [answer for who, answer in table.answered if who == player])
    if table.answered[-1][0] == "follower":
        for turn, p in enumerate(table.judged, start=1):
            name = "win_rate" if turn == 1 else f"win_rate_{turn}"
            own = len(p) * table.chats // (table.chats + len(table.given()))  # as many replies to each draft
            for whose, ps in (("follower", p[:own]), ("given", p[own:])):
                if not np.isnan(ps).all():
                    found[f"{whose}/{name}"] = float(np.nanmean(1 - ps))
    found["judge/abstained"] = float(learnt.abstained)
    found["skipped"] = float(learnt.is_skipped)
    found["tokens"] = float(sum(len(answer.sample.ids) for _, answer in table.answered))
    if learnt.tokens:
        found["sampler_gap"] = learnt.drift / learnt.tokens  # nats a token
    return found


def of_time(seconds: dict[str, float], whole: float) -> dict[str, float]:
    return {f"seconds/{phase}": s for phase, s in seconds.items()} | {"seconds/step": whole}


def rates(means: dict[str, float], processes: int) -> dict[str, float]:
    """Generated tokens per second of all processes: of the whole step, of sampling, and of learning from them."""
    tokens = means["tokens"] * processes
    learning = sum(means.get(f"seconds/{phase}", 0.0) for phase in ("reference", "forward_backward", "update"))
    seconds = {"": means["seconds/step"], "/rollout": means.get("seconds/rollout", 0.0), "/learning": learning}
    return {f"tokens_per_second{what}": tokens / s for what, s in seconds.items() if s > 0}


def _answers(player: str, answers: Sequence[Answer]) -> dict[str, float]:
    return {
        f"{player}/tokens": _mean(len(answer.sample.ids) for answer in answers),
        f"{player}/ended": _mean(float(answer.sample.ended) for answer in answers),
    }


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
