"""Games with a known outcome, played to their end by the real trainer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from slhf_training import equilibrium
from slhf_training.algorithms import Array
from slhf_training.chats import Chat
from slhf_training.rollout import Ids
from slhf_training.scoring import answer_log_probs
from slhf_training.trainer import GameTrainer
from tests.training import tiny

ROCK_PAPER_SCISSORS = np.array([[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]])
"""A, B and C as rock, paper and scissors: B beats A, C beats B, A beats C."""


def word_probabilities(trainer: GameTrainer, role: str, prompts: Sequence[Ids]) -> Array:
    """(prompts, V): of the first token; `reference` or a role."""
    roles = trainer.roles
    model = roles.use_reference() if role == "reference" else roles.use("leader" if role == "leader" else "follower")
    every = [(i,) for i in range(tiny.VOCABULARY)]
    with torch.no_grad():
        rows = [answer_log_probs(model, [p] * len(every), every, 1.0, torch.device("cpu"))[:, 0] for p in prompts]
    found = torch.stack(rows).double().exp().numpy()
    return found / found.sum(axis=1, keepdims=True)


def test_the_follower_learns_rock_paper_scissors(tmp_path: Path) -> None:
    """Whatever the draft is, its reply is the word that beats it: no single answer is best."""
    fit = tiny.settings(
        tmp_path,
        follower_turn="improve",
        save_every=10**6,
        game={"eos_penalty": 0.0, "tau_leader": 1.0, "tau_follower": 0.01, "baseline": "leave_one_out", "kappa": 1.0},
        optimisation={"steps": 150, "batch_size": 64, "micro_batch_size": 64, "learning_rate": 2e-3},
        rollout={"max_new_tokens": 1},
    )
    trainer = tiny.trainer(fit, tiny.Matrix("ABC", ROCK_PAPER_SCISSORS))
    trainer.train()
    prompts = trainer.seats.prompts
    drafts = [prompts.follower(tiny.CHAT, (tiny.WORDS.index(word),)) for word in "ABC"]
    replies = word_probabilities(trainer, "follower", drafts)
    beating = [tiny.WORDS.index(word) for word in "BCA"]
    assert min(replies[i, word] for i, word in enumerate(beating)) > 0.8


def test_the_follower_beats_the_leader_where_fewer_as_are_better(tmp_path: Path) -> None:
    def fewer_as(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Array:
        counts = np.array([b.split().count("A") - a.split().count("A") for a, b in zip(first, second, strict=True)])
        return 0.5 + 0.5 * np.sign(counts)

    fit = tiny.settings(
        tmp_path,
        save_every=10**6,
        game={"eos_penalty": 0.0, "kappa": 5.0, "baseline": "leave_one_out", "tau_leader": 1.0},
        optimisation={"steps": 60, "batch_size": 32, "micro_batch_size": 32, "learning_rate": 1e-3},
        rollout={"max_new_tokens": 12},
    )
    trainer = tiny.trainer(fit, fewer_as)
    trainer.train()
    rates = [entry["follower/win_rate"] for entry in trainer.state.log_history[:-1]]
    assert np.mean(rates[-10:]) >= 0.7
    assert np.mean(rates[:2]) < 0.6
