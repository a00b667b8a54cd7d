"""What benchmarks/learning.py compares and prints; the built-in model is not trained here."""

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from benchmarks.alive import MIB, Alive
from benchmarks.learning import (
    CHECKPOINTED,
    KEPT,
    LONGEST,
    NARROW,
    OURS,
    PEER,
    TCMALLOC,
    AllLogits,
    learning,
    prepared,
    table,
)
from slhf_training.fit import FitSettings
from slhf_training.fit.algorithms import Completion, Episode
from slhf_training.fit.learner import Learner
from slhf_training.fit.step import Clock
from slhf_training.fit.trainer import build_roles
from slhf_training.types import ROLES, Sample
from tests.training import tiny

FIGURES: dict[str, Any] = {
    "date": "2026-11-29",
    "machine": "x86_64",
    "threads": "1 threads",
    "torch": "2",
    "rows": [
        {"learner": name, "mode": mode, "tokens": 100, "cpu_s": cpu, "before_mib": 1000.0, "peak_mib": peak}
        for name, mode, cpu, peak in (
            (OURS, KEPT, 5.0, 2100.0),
            (PEER, KEPT, 5.0, 3000.0),
            (OURS, CHECKPOINTED, 8.0, 1200.0),
            (PEER, CHECKPOINTED, 10.0, 2000.0),
            (OURS, TCMALLOC, 4.0, 1800.0),
            (OURS, NARROW, 4.0, 1500.0),
        )
    ],
}


def test_ratios_are_of_the_same_run_and_against_their_limits() -> None:
    lines = table(FIGURES).splitlines()
    assert "| (a) peak memory | 0.70 | 0.60 | 0.60 | 0.50 | <= 0.7 |" in lines
    assert "| (b) peak less what was held before | 0.55 | 0.20 | 0.40 | 0.25 |  |" in lines
    assert "| (c) tokens per CPU second | 1.00 | 1.25 | 1.25 | 1.25 | >= 1.0 |" in lines
    assert f"| {PEER} | checkpointed | 2000 | 1000 | 100 | 10.0 |" in lines


def gradients(kind: type[Learner], fit: FitSettings) -> list[torch.Tensor]:
    roles = build_roles(fit, tiny.model())
    answers = [Completion(n, (8, 1, 7), Sample((1, 2, 3, 7)[: n + 2], (-1.0,) * (n + 2), True), "") for n in range(3)]
    rows = [Episode(role, answer, 0.3, 0.1, (role,)) for role in ROLES for answer in answers]
    kind(roles, fit, Clock(), lambda ours: ours).learn(rows)
    return [p.grad for parameters in roles.trained.values() for p in parameters if p.grad is not None]


def test_the_peer_learns_the_same(tmp_path: Path) -> None:
    fit = tiny.settings(tmp_path, weights="shared")
    ours, peers = gradients(Learner, fit), gradients(AllLogits, fit)
    assert len(ours) > 0
    for one, other in zip(ours, peers, strict=True):
        torch.testing.assert_close(one, other)


def test_a_learner_says_what_it_held(tmp_path: Path) -> None:
    words = tiny.byte_tokenizer()
    words.save_pretrained(tmp_path / "model")
    config = tiny.config(len(words), words.eos_token_id, hidden_size=32, initializer_range=0.2)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    fit = tiny.settings(tmp_path / "run", model=str(tmp_path / "model"), weights="shared")
    found = learning(*prepared(fit, [tiny.CHAT] * 2, Learner))
    assert 4 * LONGEST // 2 <= found["tokens"] <= 4 * LONGEST  # two answers of each role
    assert 0 < found["before_mib"] <= found["peak_mib"]
    assert found["cpu_s"] > 0


def test_a_profile_names_what_is_alive_at_the_peak_and_not_what_was_freed() -> None:
    held = torch.ones(64, MIB // 8)  # there before: it does not count
    with Alive() as alive:
        (held + 1).sum()
        kept = held * 2
        kept.view(-1).sin()
    assert alive.peak == 2 * held.untyped_storage().nbytes()
    lines = [*alive.lines()]
    assert lines[0].split() == ["64.0", "MiB", "alive", "at", "the", "peak"]
    assert {tuple(line.split()[4:6]) for line in lines[1:]} == {("mul", "float32"), ("sin", "float32")}
