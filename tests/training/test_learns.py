"""Games with a known outcome, played to their end by the real trainer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from slhf_training import equilibrium
from slhf_training.fit.trainer import GameTrainer
from slhf_training.models.scoring import answer_log_probs
from slhf_training.types import Chat, Ids, Probabilities
from tests.training import tiny

TAU = 0.05


def game(
    directory: Path, preference: tiny.Matrix, weights: str = "separate", seed: int = 0, replies: int = 1
) -> GameTrainer:
    """Answers are one word; any of A, B and C beats any other word."""
    shared = weights == "shared"
    fit = tiny.settings(
        directory,
        weights=weights,
        follower_turn="improve",
        seed=seed,
        save_every=10**6,
        game={
            "eos_penalty": 0.0,
            "tau_leader": TAU,
            "tau_follower": TAU,
            "baseline": "leave_one_out",
            "kappa": 2.0 if shared else 5.0,
            "replies_per_draft": replies,
        },
        optimisation={
            "steps": 400,
            "batch_size": 128,
            "micro_batch_size": 128,
            "learning_rate": 5e-4 if shared else 2e-4,
            "warmup_steps": 20,
        },
        rollout={"max_new_tokens": 1},
    )
    return tiny.trainer(fit, preference, template=tiny.BRIEF, seed=seed)


def word_probabilities(trainer: GameTrainer, role: str, prompts: Sequence[Ids]) -> Probabilities:
    """(prompts, V): of the first token; `reference` or a role."""
    roles = trainer.roles
    model = roles.use_reference() if role == "reference" else roles.use("leader" if role == "leader" else "follower")
    every = [(i,) for i in range(tiny.VOCABULARY)]
    with torch.no_grad():
        rows = [answer_log_probs(model, [p] * len(every), every, 1.0, torch.device("cpu"))[:, 0] for p in prompts]
    found = torch.stack(rows).double().exp().numpy()
    return np.asarray(found / found.sum(axis=1, keepdims=True), dtype=np.float64)


def cycle(a: float, b: float, c: float) -> Probabilities:
    """Three annotator types in shares a, b, c who rank A>B>C, B>C>A and C>A>B: their majority is a cycle."""
    return np.array([[0.5, a + c, a], [b, 0.5, a + b], [b + c, c, 0.5]])


def solved(trainer: GameTrainer, preference: tiny.Matrix, tau: float) -> tuple[Probabilities, Probabilities]:
    """The Leader's (V,) and the Follower's (V, V) equilibrium over all words, from the model's own references.

    The Follower's reference depends on the draft: each draft is a game of its own, whose value the Leader compares.
    """
    prompts = trainer.environment.prompts
    words = [(i,) for i in range(tiny.VOCABULARY)]
    texts = [prompts.text(word) for word in words]
    p = np.array([preference([], [text] * len(texts), texts) for text in texts])
    leader = word_probabilities(trainer, "reference", [prompts.leader(tiny.CHAT)])[0]
    follower = word_probabilities(trainer, "reference", [prompts.follower(tiny.CHAT, word) for word in words])
    games = [equilibrium(p, tau, tau, leader, reference) for reference in follower]
    scores = np.log(leader) + np.array([game.value[i] for i, game in enumerate(games)]) / tau
    weights = np.exp(scores - scores.max())
    return weights / weights.sum(), np.array([game.follower[i] for i, game in enumerate(games)])


def distances(trainer: GameTrainer, leader: Probabilities, follower: Probabilities) -> tuple[float, float]:
    """Total variation to the equilibrium: the Leader's, and the Follower's as the equilibrium's Leader meets it."""
    prompts = trainer.environment.prompts
    drafts = [prompts.follower(tiny.CHAT, (i,)) for i in range(tiny.VOCABULARY)]
    played = word_probabilities(trainer, "leader", [prompts.leader(tiny.CHAT)])[0]
    replies = word_probabilities(trainer, "follower", drafts)
    return np.abs(played - leader).sum() / 2, float(leader @ np.abs(replies - follower).sum(axis=1) / 2)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("weights", "seed", "replies"), [("shared", 1, 1), ("separate", 0, 2)])
def test_the_trainer_reaches_the_closed_form_of_a_cyclic_game(
    weights: str, seed: int, replies: int, tmp_path: Path
) -> None:
    """The Follower's best reply is another for each draft: no single answer is best."""
    preference = tiny.Matrix("ABC", cycle(0.4, 0.35, 0.25))
    trainer = game(tmp_path, preference, weights, seed, replies)
    leader, follower = solved(trainer, preference, TAU)
    assert min(distances(trainer, leader, follower)) > 0.5
    trainer.train()
    assert max(distances(trainer, leader, follower)) < 0.05


def test_the_follower_beats_the_leader_where_fewer_vowels_are_better(tmp_path: Path) -> None:
    """The Leader is held near the base, so that there is something to improve."""
    fit = tiny.settings(
        tmp_path,
        save_every=10**6,
        game={"kappa": 5.0, "baseline": "leave_one_out", "tau_leader": 0.5, "tau_follower": 0.01},
        optimisation={"steps": 60, "batch_size": 32, "micro_batch_size": 32, "learning_rate": 3e-4},
        rollout={"max_new_tokens": 8},
    )
    trainer = tiny.trainer(fit, fewer_vowels)
    trainer.train()
    rates = [entry["follower/win_rate"] for entry in trainer.state.log_history[:-1]]
    assert np.mean(rates[:3]) < 0.6
    assert np.mean(rates[-10:]) >= 0.7


def fewer_vowels(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
    """The answer with the smaller share of vowels among its letters wins; one without letters has the largest."""
    difference = np.array([vowels(b) - vowels(a) for a, b in zip(first, second, strict=True)])
    return np.asarray(0.5 + 0.5 * np.sign(difference), dtype=np.float64)


def vowels(text: str) -> float:
    letters = [letter for letter in text.lower() if letter.isalpha()]
    return sum(letter in "aeiou" for letter in letters) / len(letters) if letters else 1.0
