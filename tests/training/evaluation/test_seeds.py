"""Which answers share random numbers: only those of one writer to one prompt, round and sample."""

from pathlib import Path
from typing import Any

from slhf_training.evaluation.generation import Task
from slhf_training.evaluation.run import evaluate
from tests.training.evaluation.fakes import FakeModels, Longer, Reply, marked, settings

ROUND_ROBIN = {"round_robin": {"players": ["base", "slhf"]}}


def seeds(folder: Path, **sections: Any) -> dict[str, list[int]]:
    """Of the tasks of each model, in the order of the prompts."""
    found: dict[str, list[int]] = {}

    def noted(name: str) -> Reply:
        def reply(task: Task, draft: str | None) -> str | None:
            found.setdefault(name, []).append(task.seed)
            return marked(name)(task, draft)

        return reply

    evaluate(settings(folder, **sections), opened=FakeModels(noted), judge=Longer().of)
    return found


def test_two_leaders_of_different_models_share_no_noise(tmp_path: Path) -> None:
    """p is not linear in the answers, so a duel with one luck for both is not the duel of independent answers."""
    found = seeds(tmp_path, **ROUND_ROBIN)
    assert len({*found["base"], *found["slhf"]}) == 6


def test_the_same_writer_draws_the_same_in_every_run(tmp_path: Path) -> None:
    assert seeds(tmp_path / "one", **ROUND_ROBIN) == seeds(tmp_path / "two", **ROUND_ROBIN)


def test_a_run_with_another_seed_draws_anew(tmp_path: Path) -> None:
    first = seeds(tmp_path / "one", **ROUND_ROBIN)
    second = seeds(tmp_path / "two", generation={"seed": 1}, **ROUND_ROBIN)
    assert not {*first["base"], *first["slhf"]} & {*second["base"], *second["slhf"]}


def test_independent_answers_of_one_leader_share_no_noise(tmp_path: Path) -> None:
    found = seeds(tmp_path, cycles={"models": ["slhf"], "samples": 3})
    assert len(set(found["slhf"])) == 9
