"""Games with a known outcome, played to their end by the real trainer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from slhf_training import equilibrium
from slhf_training.algorithms import Array
from slhf_training.chats import Chat
from slhf_training.rollout import Ids
from slhf_training.scoring import answer_log_probs
from slhf_training.trainer import GameTrainer
from tests.training import tiny

TAU = 0.1
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
    return np.asarray(found / found.sum(axis=1, keepdims=True), dtype=np.float64)


def cycle(a: float, b: float, c: float) -> Array:
    """Three annotator types in shares a, b, c who rank A>B>C, B>C>A and C>A>B: their majority is a cycle."""
    return np.array([[0.5, a + c, a], [b, 0.5, a + b], [b + c, c, 0.5]])


def solved(trainer: GameTrainer, preference: tiny.Matrix, tau: float) -> tuple[Array, Array]:
    """The Leader's (V,) and the Follower's (V, V) equilibrium over all words, from the model's own references.

    The Follower's reference depends on the draft: each draft is a game of its own, whose value the Leader compares.
    """
    prompts = trainer.seats.prompts
    words = [(i,) for i in range(tiny.VOCABULARY)]
    texts = [prompts.text(word) for word in words]
    p = np.array([preference([], [text] * len(texts), texts) for text in texts])
    leader = word_probabilities(trainer, "reference", [prompts.leader(tiny.CHAT)])[0]
    follower = word_probabilities(trainer, "reference", [prompts.follower(tiny.CHAT, word) for word in words])
    games = [equilibrium(p, tau, tau, leader, reference) for reference in follower]
    scores = np.log(leader) + np.array([game.value[i] for i, game in enumerate(games)]) / tau
    weights = np.exp(scores - scores.max())
    return weights / weights.sum(), np.array([game.follower[i] for i, game in enumerate(games)])


def distances(trainer: GameTrainer, leader: Array, follower: Array) -> tuple[float, float]:
    """Total variation to the equilibrium: the Leader's, and the Follower's as the equilibrium's Leader meets it."""
    prompts = trainer.seats.prompts
    drafts = [prompts.follower(tiny.CHAT, (i,)) for i in range(tiny.VOCABULARY)]
    played = word_probabilities(trainer, "leader", [prompts.leader(tiny.CHAT)])[0]
    replies = word_probabilities(trainer, "follower", drafts)
    return np.abs(played - leader).sum() / 2, float(leader @ np.abs(replies - follower).sum(axis=1) / 2)


@pytest.mark.timeout(600)
def test_the_trainer_reaches_the_closed_form_of_a_cyclic_game(tmp_path: Path) -> None:
    fit = tiny.settings(
        tmp_path,
        follower_turn="improve",
        save_every=10**6,
        game={"eos_penalty": 0.0, "tau_leader": TAU, "tau_follower": TAU, "baseline": "leave_one_out", "kappa": 5.0},
        optimisation={
            "steps": 400,
            "batch_size": 64,
            "micro_batch_size": 64,
            "learning_rate": 1e-3,
            "warmup_steps": 20,
        },
        rollout={"max_new_tokens": 1},
    )
    preference = tiny.Matrix("ABC", cycle(0.4, 0.35, 0.25), outsiders=0.8)
    trainer = tiny.trainer(fit, preference)
    leader, follower = solved(trainer, preference, TAU)
    assert min(distances(trainer, leader, follower)) > 0.3
    trainer.train()
    assert max(distances(trainer, leader, follower)) < 0.05


def test_the_follower_learns_rock_paper_scissors(tmp_path: Path) -> None:
    """Whatever the draft is, its reply is the word that beats it: no single answer is best."""
    fit = tiny.settings(
        tmp_path,
        follower_turn="improve",
        save_every=10**6,
        game={"eos_penalty": 0.0, "tau_leader": 1.0, "tau_follower": 0.1, "baseline": "leave_one_out", "kappa": 1.0},
        optimisation={"steps": 200, "batch_size": 64, "micro_batch_size": 64, "learning_rate": 1e-3},
        rollout={"max_new_tokens": 1},
    )
    trainer = tiny.trainer(fit, tiny.Matrix("ABC", ROCK_PAPER_SCISSORS, outsiders=0.8))
    trainer.train()
    prompts = trainer.seats.prompts
    drafts = [prompts.follower(tiny.CHAT, (tiny.WORDS.index(word),)) for word in "ABC"]
    replies = word_probabilities(trainer, "follower", drafts)
    beating = [tiny.WORDS.index(word) for word in "BCA"]
    assert min(replies[i, word] for i, word in enumerate(beating)) > 0.8


def test_the_follower_beats_the_leader_where_more_bs_are_better(tmp_path: Path) -> None:
    def more_bs(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Array:
        counts = np.array([a.split().count("B") - b.split().count("B") for a, b in zip(first, second, strict=True)])
        return np.asarray(0.5 + 0.5 * np.sign(counts), dtype=np.float64)

    fit = tiny.settings(
        tmp_path,
        save_every=10**6,
        game={"eos_penalty": 0.0, "kappa": 5.0, "baseline": "leave_one_out", "tau_leader": 1.0},
        optimisation={"steps": 60, "batch_size": 32, "micro_batch_size": 32, "learning_rate": 1e-3},
        rollout={"max_new_tokens": 12},
    )
    trainer = tiny.trainer(fit, more_bs)
    trainer.train()
    rates = [entry["follower/win_rate"] for entry in trainer.state.log_history[:-1]]
    assert np.mean(rates[-10:]) >= 0.7
    assert np.mean(rates[:2]) < 0.6
