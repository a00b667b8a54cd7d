"""The real trainer on a random Llama: what moves, what is reproducible, and that all algorithms run."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slhf_training.errors import DataError, TrainingError
from slhf_training.fit.algorithms import ALGORITHMS
from slhf_training.fit.step import Draft, DraftPool
from slhf_training.fit.trainer import GameTrainer
from slhf_training.rollout import Rollout
from slhf_training.types import Chat, Ids, Message, Player, Probabilities, Sample
from tests.training import tiny

TEXTS = ("which", "say it", "A or B", "improve A B C")
CHATS: list[Chat] = [[Message(role="user", content=text)] for text in TEXTS * 8]


def fewer_as(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
    """The answer with the smaller share of the word A wins."""
    difference = np.array([_share(b) - _share(a) for a, b in zip(first, second, strict=True)])
    return np.asarray(0.5 + 0.5 * np.sign(difference), dtype=np.float64)


def _share(text: str) -> float:
    words = text.split()
    return words.count("A") / len(words) if words else 0.0


def finished(
    directory: Path,
    preference: Any = fewer_as,
    chats: Sequence[Chat] = CHATS,
    draft_pool: DraftPool | None = None,
    **changes: Any,
) -> GameTrainer:
    trainer = tiny.trainer(tiny.settings(directory, **changes), preference, chats, draft_pool=draft_pool)
    trainer.train()
    return trainer


def trained(trainer: GameTrainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.roles.model.named_parameters() if p.requires_grad}


def losses(trainer: GameTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("weights", ["separate", "shared", "full"])
def test_every_trainable_parameter_moves_and_the_base_never(weights: str, tmp_path: Path) -> None:
    trainer = tiny.trainer(tiny.settings(tmp_path, weights=weights), fewer_as, CHATS)
    before = {name: p.detach().clone() for name, p in trainer.roles.model.named_parameters()}
    trainer.train()
    for name, parameter in trainer.roles.model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


def test_a_small_step_of_all_weights_moves_every_one_by_the_rate(tmp_path: Path) -> None:
    """AdamW's first step is the learning rate in the gradient's direction; in bfloat16 it would be lost."""
    rate = 5e-6
    optimisation = {"steps": 1, "learning_rate": rate, "autocast": "bfloat16", "schedule": "constant"}
    changes = {"weights": "full", "optimisation": optimisation, "rollout": {"dtype": "bfloat16"}}
    trainer = tiny.trainer(tiny.settings(tmp_path, **changes), fewer_as, CHATS)
    before = {name: p.detach().clone() for name, p in trainer.roles.model.named_parameters()}
    trainer.train()
    moved = [(p.detach() - before[name]).abs().flatten() for name, p in trainer.roles.model.named_parameters()]
    learnt = torch.cat([steps[steps > 0] for steps in moved])  # a word that no text holds has no gradient
    assert len(learnt) > 0.5 * sum(map(len, moved))
    assert learnt.quantile(0.05) == pytest.approx(rate, rel=0.05)
    assert learnt.quantile(0.95) == pytest.approx(rate, rel=0.05)
    assert next(iter(trainer.roles.use_reference().parameters())).dtype == torch.bfloat16


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("weights", ["separate", "shared", "full"])
def test_every_algorithm_runs_with_all_kinds_of_weights(algorithm: str, weights: str, tmp_path: Path) -> None:
    trainer = finished(tmp_path, algorithm=algorithm, weights=weights)
    logged = trainer.state.log_history[-2]
    assert math.isfinite(logged["loss"])
    learners = ALGORITHMS[algorithm].trains
    assert all(0 <= logged[f"{role}/reward"] <= 1 for role in learners)
    assert ("follower/win_rate" in logged) == ("follower" in learners)
    assert {"seconds/rollout", "seconds/judge", "seconds/reference", "seconds/forward_backward"} <= logged.keys()
    assert logged["tokens_per_second"] > 0


def test_the_same_seed_gives_the_same_run_and_another_another(tmp_path: Path) -> None:
    first, again, other = (finished(tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert losses(first) == losses(again)
    assert same(trained(first), trained(again))
    assert losses(first) != losses(other)


class Checking:
    """A judge that knows which answers are right: those with an A, but of one chat it knows nothing."""

    def __init__(self) -> None:
        self.leaders: list[float] = []
        self.followers: list[float] = []

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        a, b = self.right(chats, first), self.right(chats, second)
        self.leaders += a.tolist()
        self.followers += b.tolist()
        p: Probabilities = (1 + a - b) / 2
        return p

    def right(self, chats: Sequence[Chat], answers: Sequence[str]) -> Probabilities:
        known = [float("A" in answer.split()) for answer in answers]
        return np.array([math.nan if chat == CHATS[0] else one for chat, one in zip(chats, known, strict=True)])


def test_shares_of_right_answers_are_logged_where_the_judge_knows_them(tmp_path: Path) -> None:
    judge = Checking()
    steps = {"steps": 1, "batch_size": 24}
    draft = Draft(len(CHATS), CHATS[1], "which", (4, tiny.END))
    pool = DraftPool([draft], per_step=1, seed=0)
    (logged, _) = finished(tmp_path, judge, draft_pool=pool, optimisation=steps).state.log_history
    assert 0 < np.nanmean(judge.leaders[:-1]) < 1
    assert logged["leader/right"] == pytest.approx(np.nanmean(judge.leaders[:-1]))
    assert logged["follower/right"] == pytest.approx(np.nanmean(judge.followers[:-1]))
    assert logged["given/right"] == judge.followers[-1]
    assert not [key for key in finished(tmp_path / "other").state.log_history[0] if key.endswith("/right")]


class Failing:
    """A sampler that loses its log-probs at some calls; a step of R = 1 makes two."""

    def __init__(self, rollout: Rollout, calls: Sequence[int]) -> None:
        self._rollout, self._calls, self._called = rollout, calls, 0

    def sample(self, prompts: Sequence[Ids], player: Player, seeds: Sequence[int]) -> list[Sample]:
        found = self._rollout.sample(prompts, player, seeds)
        self._called += 1
        if self._called not in self._calls:
            return found
        return [dataclasses.replace(sample, logps=(math.nan,) * len(sample.ids)) for sample in found]


class Dozing:
    """A sampler that sleeps."""

    def __init__(self, rollout: Rollout) -> None:
        self._rollout = rollout
        self.did: list[str] = []

    def sample(self, prompts: Sequence[Ids], player: Player, seeds: Sequence[int]) -> list[Sample]:
        self.did.append(player)
        return self._rollout.sample(prompts, player, seeds)

    def sleep(self) -> None:
        self.did.append("sleep")


def test_a_sampler_that_can_sleeps_while_the_learner_learns(tmp_path: Path) -> None:
    trainer = tiny.trainer(tiny.settings(tmp_path), fewer_as, CHATS)
    sampler = Dozing(trainer.environment.rollout)
    trainer.environment = dataclasses.replace(trainer.environment, rollout=sampler)
    trainer.train()
    assert sampler.did == ["leader", "follower", "sleep"] * 2


def failing(directory: Path, calls: Sequence[int], steps: int, weights: str = "shared") -> GameTrainer:
    trainer = tiny.trainer(tiny.settings(directory, **_steps(steps, weights)), fewer_as, CHATS)
    trainer.environment = dataclasses.replace(trainer.environment, rollout=Failing(trainer.environment.rollout, calls))
    return trainer


@pytest.mark.parametrize("weights", ["separate", "shared"])
def test_a_gradient_that_is_not_finite_is_skipped(weights: str, tmp_path: Path) -> None:
    trainer = failing(tmp_path / "one", calls=[4], steps=2, weights=weights)
    trainer.train()
    assert [entry["skipped"] for entry in trainer.state.log_history if "skipped" in entry] == [0, 1]
    one_step = finished(tmp_path / "none", **_steps(1, weights))
    assert same(trained(trainer), trained(one_step))


def _steps(steps: int, weights: str) -> dict[str, Any]:
    optimisation = {"steps": steps, "schedule": "constant"}
    return {"weights": weights, "game": {"baseline": "leave_one_out"}, "optimisation": optimisation}


def test_a_run_without_finite_gradients_stops(tmp_path: Path) -> None:
    trainer = failing(tmp_path, calls=range(3, 100), steps=9)
    with pytest.raises(TrainingError, match="step 6: no finite gradient for 5 steps"):
        trainer.train()


@pytest.mark.parametrize("weights", ["separate", "shared"])
def test_micro_batches_do_not_change_the_gradient(weights: str, tmp_path: Path) -> None:
    """float32 sums in another order: equal to 1e-4, and after two steps of Adam still."""
    one = finished(tmp_path / "1", weights=weights, optimisation={"micro_batch_size": 1})
    eight = finished(tmp_path / "8", weights=weights, optimisation={"micro_batch_size": 8})
    assert losses(one) == pytest.approx(losses(eight), rel=1e-3, abs=1e-5)
    for name, parameter in trained(one).items():
        torch.testing.assert_close(parameter, trained(eight)[name], rtol=1e-2, atol=1e-3)


def test_the_follower_learns_faster_by_kappa(tmp_path: Path) -> None:
    trainer = tiny.trainer(tiny.settings(tmp_path, game={"kappa": 4}), fewer_as, CHATS)
    rates = {id(group["params"][0]): group["lr"] for group in trainer.create_optimizer().param_groups}
    of = trainer.roles.trained
    assert rates[id(of["follower"][0])] == pytest.approx(4 * rates[id(of["leader"][0])])
    assert all(group["betas"] == (0.9, 0.999) for group in trainer.optimizer.param_groups)


def test_the_leader_waits_for_its_turn(tmp_path: Path) -> None:
    """leader_update_every 3: of two steps the Leader takes the first alone."""
    one, two = (
        finished(tmp_path / str(n), game={"leader_update_every": 3}, optimisation={"steps": n, "schedule": "constant"})
        for n in (1, 2)
    )
    moved = {n for n, p in trained(two).items() if not torch.equal(p, trained(one)[n])}
    assert moved == {name for name in trained(two) if ".follower." in name}


def test_later_rounds_are_trained_too(tmp_path: Path) -> None:
    logged = finished(tmp_path, game={"rollout_rounds": 3}).state.log_history[-2]
    assert {"follower/win_rate", "follower/win_rate_2", "follower/win_rate_3"} <= logged.keys()


def test_several_replies_to_a_draft_are_asked_for_and_differ(tmp_path: Path) -> None:
    trainer = tiny.trainer(tiny.settings(tmp_path, game={"replies_per_draft": 3}), fewer_as, CHATS)
    met: list[tuple[list[str], list[str]]] = []

    def recorded(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        met.append((list(first), list(second)))
        return fewer_as(chats, first, second)

    trainer.environment = dataclasses.replace(trainer.environment, preference=recorded)
    trainer.train()
    drafts, replies = met[0]
    assert drafts[::3] == drafts[1::3] == drafts[2::3]
    assert replies[::3] != replies[1::3] != replies[2::3]
    assert len(replies) == 3 * trainer.settings.optimisation.batch_size
    answers = len(replies) + trainer.settings.optimisation.batch_size
    assert trainer.state.log_history[0]["tokens"] >= answers  # each has one at least


def test_abstentions_are_dropped_and_counted(tmp_path: Path) -> None:
    def half_silent(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        return np.where(np.arange(len(first)) < 3, np.nan, fewer_as(chats, first, second))

    trainer = finished(tmp_path, preference=half_silent)
    logged = trainer.state.log_history[0]
    assert logged["judge/abstained"] == 6  # three of the Leader's rows and their replies
    assert all(math.isfinite(loss) for loss in losses(trainer))


def test_a_judge_that_says_nothing_at_all_changes_nothing(tmp_path: Path) -> None:
    trainer = tiny.trainer(tiny.settings(tmp_path), lambda chats, first, second: np.full(len(first), np.nan), CHATS)
    before = trained(trainer)
    trainer.train()
    assert same(before, trained(trainer))


def test_chats_that_do_not_fill_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 chats"):
        tiny.trainer(tiny.settings(tmp_path), fewer_as, CHATS[:3])


def test_what_samples_is_what_learns(tmp_path: Path) -> None:
    trainer = finished(tmp_path)
    assert all(entry["sampler_gap"] < 1e-4 for entry in trainer.state.log_history[:-1])


class Mistaken:
    """A sampler that says of each token that it was less likely than the trainer finds it, by so many nats."""

    def __init__(self, rollout: Rollout, nats: Callable[[Sample], float]) -> None:
        self._rollout, self._nats = rollout, nats

    def sample(self, prompts: Sequence[Ids], player: Player, seeds: Sequence[int]) -> list[Sample]:
        found = self._rollout.sample(prompts, player, seeds)
        return [dataclasses.replace(s, logps=tuple(logp - self._nats(s) for logp in s.logps)) for s in found]


def mistaken(directory: Path, nats: Callable[[Sample], float], **changes: Any) -> GameTrainer:
    trainer = tiny.trainer(tiny.settings(directory, **changes), fewer_as, CHATS)
    trainer.environment = dataclasses.replace(trainer.environment, rollout=Mistaken(trainer.environment.rollout, nats))
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("game", "weight"), [({}, 2.0), ({"importance_cap": 9}, math.e), ({"importance_cap": None}, 1)]
)
def test_a_sampler_that_is_not_the_trainer_is_corrected_for_and_shown(
    game: dict[str, Any], weight: float, tmp_path: Path
) -> None:
    """Each token should have counted e times, and by default counts twice at most."""
    once = {"steps": 1}
    exact = finished(tmp_path / "exact", optimisation=once)
    trainer = mistaken(tmp_path / "run", lambda sample: 1.0, game=game, optimisation=once)
    assert losses(trainer) == pytest.approx([weight * loss for loss in losses(exact)], rel=1e-3)
    assert trainer.state.log_history[0]["sampler_gap"] == pytest.approx(1.0, abs=1e-4)  # nats a token


def test_the_gap_to_the_sampler_is_a_mean_over_tokens_however_they_are_batched(tmp_path: Path) -> None:
    one, eight = (
        mistaken(
            tmp_path / str(size), lambda sample: len(sample.ids), optimisation={"micro_batch_size": size, "steps": 1}
        )
        for size in (1, 8)
    )
    gaps = [trainer.state.log_history[0]["sampler_gap"] for trainer in (one, eight)]
    assert gaps[0] == pytest.approx(gaps[1], rel=1e-4)


def test_tensorboard_gets_the_metrics(tmp_path: Path) -> None:
    finished(tmp_path, report_to=["tensorboard"])
    assert list(tmp_path.rglob("events.out.tfevents.*"))
