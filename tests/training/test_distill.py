"""Two tiny bundles whose roles differ become one whose adapter speaks as both."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from slhf import read_bundle
from slhf_training.cli import main
from slhf_training.distill.learning import Candidates, DistillationExample, DraftedChat, choose, ids_of
from slhf_training.distill.run import BUNDLE, TEXTS
from slhf_training.errors import TrainingError
from slhf_training.evaluation.answers import NONE, Answer
from slhf_training.evaluation.generation import BundlePolicies
from slhf_training.fit.optimisation import Clip
from slhf_training.fit.run import export
from slhf_training.models.bundles import open_bundle
from slhf_training.models.prompts import Prompts
from slhf_training.models.scoring import answer_logits
from slhf_training.rollout import RolloutSettings
from slhf_training.rollout.hf import HFRollout
from slhf_training.types import Chat, Probabilities, Role
from tests.training import tiny
from tests.training.test_export import trained_run

CPU = torch.device("cpu")


def more_as(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
    """For the configuration below, which names it."""
    a, b = (np.array([text.split().count("A") for text in texts]) for texts in (first, second))
    return np.asarray((1 + np.sign(a - b)) / 2, dtype=np.float64)


def bundle(directory: Path, seed: int) -> Path:
    """One adapter for both roles, and not a small one: what it says differs from what others say."""
    trained_run(directory, weights="shared", seed=seed)
    export(directory / "run", directory / "bundle", f"tiny-{seed}")
    file = directory / "bundle" / "policy" / "adapter_model.safetensors"
    torch.manual_seed(seed)
    save_file({key: torch.randn_like(value) * 0.1 for key, value in load_file(file).items()}, file)
    return directory / "bundle"


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[Role, Path]:
    root = tmp_path_factory.mktemp("teachers")
    return {"leader": bundle(root / "one", 1), "follower": bundle(root / "two", 2)}


def config(directory: Path, teachers: dict[Role, Path], **changes: Any) -> Path:
    chats = [" ".join(words) for words in np.random.default_rng(0).choice(["A", "B", "C"], (24, 3))]
    rows = [json.dumps({"prompt": f"which {chat}"}) for chat in chats]
    (directory / "chats.jsonl").write_text("\n".join(rows) + "\n")
    drafted = [json.dumps({"prompt": f"say {chat}", "chosen": "A B", "rejected": "C C"}) for chat in chats[:4]]
    (directory / "drafts.jsonl").write_text("\n".join(drafted) + "\n")
    written: dict[str, Any] = {
        "output_dir": "run",
        "leader": str(teachers["leader"]),
        "follower": str(teachers["follower"]),
        "prompts": [{"files": ["chats.jsonl"]}],
        "drafts": [{"files": ["drafts.jsonl"]}],
        "generation": {"generator": "hf", "temperature": 1.0, "max_new_tokens": 6},
        "optimisation": {"steps": 60, "batch_size": 16, "micro_batch_size": 8, "learning_rate": 1e-2},
        "report_to": [],
        **changes,
    }
    (directory / "distill.yaml").write_text(yaml.safe_dump(written))
    return directory / "distill.yaml"


def nats(role: Role, teacher: Path, student: Path, draft: str = "A B") -> float:
    """Mean KL(teacher || student) of a token, over answers that neither wrote."""
    opened = {path: open_bundle("bundle", str(path)) for path in (teacher, student)}
    prompts = Prompts(tiny.tokenizer(), opened[teacher].manifest.follower_turn)
    chats: list[Chat] = [[{"role": "user", "content": f"which {word} {word} A"}] for word in "ABC"]
    asked = [prompts.leader(c) if role == "leader" else prompts.follower(c, prompts.ids(draft)) for c in chats]
    answers = [prompts.ids("B C A C")] * 3
    with torch.no_grad():
        theirs, ours = (_log_probs(opened[path], role, asked, answers) for path in (teacher, student))
    return float((theirs.exp() * (theirs - ours)).sum(-1).mean())


def _log_probs(bundle: Any, role: Role, asked: list[Any], answers: list[Any]) -> torch.Tensor:
    return answer_logits(BundlePolicies(bundle).merged(role), asked, answers, CPU).log_softmax(dim=-1)


def test_one_adapter_learns_to_speak_as_both(tmp_path: Path, teachers: dict[Role, Path]) -> None:
    assert main(["distill", str(config(tmp_path, teachers)), "--name", "both"]) == 0
    found = tmp_path / "run" / BUNDLE
    manifest = read_bundle(found)
    assert manifest.name == "both"
    assert manifest.leader == manifest.follower
    (facts,) = manifest.training["distillations"]
    assert facts["start"] == facts["follower"]
    assert facts["leader"] == {
        "name": "tiny-1",
        "revision": read_bundle(teachers["leader"]).revision,
        "share": None,
    }
    assert facts["prompts"] == [{"files": ["chats.jsonl"]}]
    assert manifest.training["step"] == 2  # the Follower's, from which it goes on
    assert manifest.evaluation == {}
    both: list[tuple[Role, Role]] = [("leader", "follower"), ("follower", "leader")]
    for role, other in both:
        apart = nats(role, teachers[role], teachers[other])
        assert nats(role, teachers[role], found) < 0.4 * apart
    said = (found / "slhf.json").read_text()
    assert not [path for path in (tmp_path, *teachers.values()) if str(path) in said]


def test_a_run_that_is_repeated_writes_nothing_again(tmp_path: Path, teachers: dict[Role, Path]) -> None:
    """The adapter is the same one, too: nothing in it depends on chance that is not seeded."""
    path = config(tmp_path, teachers, optimisation={"steps": 2, "batch_size": 4}, rounds=2)
    assert main(["distill", str(path)]) == 0
    texts = (tmp_path / "run" / TEXTS).read_bytes()
    assert 24 + 24 + 8 < len(texts.splitlines()) <= 24 + 2 * (24 + 8)  # the second round, where the first wrote a text
    first = load_file(tmp_path / "run" / BUNDLE / "policy" / "adapter_model.safetensors")
    for folder in ("run/bundle", "run/checkpoint-2"):
        (tmp_path / folder).rename(tmp_path / folder.replace("/", "-"))
    assert main(["distill", str(path)]) == 0
    assert (tmp_path / "run" / TEXTS).read_bytes() == texts
    second = load_file(tmp_path / "run" / BUNDLE / "policy" / "adapter_model.safetensors")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_it_can_start_from_another_adapter_than_the_followers(tmp_path: Path, teachers: dict[Role, Path]) -> None:
    """The teachers stay who they are. A rate this low changes next to nothing, so the start is what comes out."""
    how = {"steps": 1, "batch_size": 4, "learning_rate": 1e-9}
    path = config(tmp_path, teachers, optimisation=how, start=str(teachers["leader"]))
    assert main(["distill", str(path)]) == 0
    found = tmp_path / "run" / BUNDLE
    start, learnt = (load_file(b / "policy" / "adapter_model.safetensors") for b in (teachers["leader"], found))
    for key, value in start.items():
        torch.testing.assert_close(learnt[key], value)
    (facts,) = read_bundle(found).training["distillations"]
    assert {key: facts[key]["name"] for key in ("leader", "follower", "start")} == {
        "leader": "tiny-1",
        "follower": "tiny-2",
        "start": "tiny-1",
    }


def test_with_weights_of_their_own_the_follower_alone_learns(tmp_path: Path, teachers: dict[Role, Path]) -> None:
    """It starts as the other bundle's Follower, so that there is something to learn. The Leader keeps its adapter."""
    assert main(["distill", str(config(tmp_path, teachers, weights="separate", start=str(teachers["leader"])))]) == 0
    found = tmp_path / "run" / BUNDLE
    manifest = read_bundle(found)
    assert (manifest.leader.adapter, manifest.follower.adapter) == ("leader", "follower")
    had, kept = (teachers["leader"] / "policy", found / "leader")
    assert {path.name: path.read_bytes() for path in had.iterdir()} == {p.name: p.read_bytes() for p in kept.iterdir()}
    apart = nats("follower", teachers["follower"], teachers["leader"])
    assert nats("follower", teachers["follower"], found) < 0.4 * apart
    log = json.loads((tmp_path / "run" / "checkpoint-60" / "trainer_state.json").read_text())["log_history"]
    assert {key for entry in log for key in entry if key.endswith("/kl")} == {"follower/kl"}


def test_weights_of_their_own_need_one_base(
    tmp_path: Path, teachers: dict[Role, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(teachers["leader"], other)
    weights = load_file(other / "model.safetensors")
    save_file({key: value + 1 for key, value in weights.items()}, other / "model.safetensors", {"format": "pt"})
    assert main(["distill", str(config(tmp_path, teachers, leader=str(other), weights="separate"))]) == 1
    assert f"leader: {other} has another base than {teachers['follower']}" in capsys.readouterr().err


def test_it_can_go_part_of_the_way(tmp_path: Path, teachers: dict[Role, Path]) -> None:
    how = {"steps": 2, "batch_size": 4}
    found = []
    for share in (1, 0.25):
        path = config(tmp_path, teachers, optimisation=how, share=share, output_dir=f"run-{share}")
        assert main(["distill", str(path)]) == 0
        found.append(load_file(tmp_path / f"run-{share}" / BUNDLE / "policy" / "adapter_model.safetensors"))
    whole, part = found
    start = load_file(teachers["follower"] / "policy" / "adapter_model.safetensors")
    for key, value in start.items():
        torch.testing.assert_close(part[key], value + (whole[key] - value) / 4)
    assert any(not torch.equal(value, whole[key]) for key, value in start.items())


def test_checkpointed_gradients_are_the_same(tmp_path: Path, teachers: dict[Role, Path]) -> None:
    found = []
    for is_checkpointed in (False, True):
        how = {"steps": 2, "batch_size": 4, "gradient_checkpointing": is_checkpointed}
        assert (
            main(["distill", str(config(tmp_path, teachers, output_dir=f"run-{is_checkpointed}", optimisation=how))])
            == 0
        )
        found.append(load_file(tmp_path / f"run-{is_checkpointed}" / BUNDLE / "policy" / "adapter_model.safetensors"))
    plain, checkpointed = found
    for key, value in plain.items():
        torch.testing.assert_close(checkpointed[key], value, rtol=1e-3, atol=1e-4)


def test_it_goes_on_from_its_last_checkpoint(tmp_path: Path, teachers: dict[Role, Path]) -> None:
    how = {"steps": 4, "batch_size": 4}
    path = config(tmp_path, teachers, optimisation=how, save_every=2)
    assert main(["distill", str(path)]) == 0
    whole = load_file(tmp_path / "run" / BUNDLE / "policy" / "adapter_model.safetensors")
    (tmp_path / "run" / BUNDLE).rename(tmp_path / "whole")
    (tmp_path / "run" / "checkpoint-4").rename(tmp_path / "checkpoint-4")
    log = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    assert [entry["skipped"] for entry in log if "skipped" in entry] == [0, 0, 0, 0]
    assert all(entry["grad_norm"] > 0 for entry in log if "grad_norm" in entry)
    assert main(["distill", str(path)]) == 0
    resumed = load_file(tmp_path / "run" / BUNDLE / "policy" / "adapter_model.safetensors")
    for key, value in whole.items():
        torch.testing.assert_close(resumed[key], value)


def test_of_several_refinements_the_preferred_one_is_learnt(tmp_path: Path, teachers: dict[Role, Path]) -> None:
    """The larger its share of the target, the more the student's refinements are as the source likes them.

    By how much depends on what was sampled, and on how a machine adds: in 14 runs they had .8 to 3.2 As, so three
    decide together.
    """

    def as_written(share: float, seed: int) -> float:
        directory = tmp_path / f"{share}-{seed}"
        directory.mkdir()
        preference = {"kind": "callable", "function": f"{__name__}:more_as"}
        settings = {"samples": 6, "preference": preference, "share": share}
        assert main(["distill", str(config(directory, teachers, best_of=settings, seed=seed))]) == 0
        student = open_bundle("bundle", str(directory / "run" / BUNDLE))
        how = RolloutSettings(max_new_tokens=6, temperature=1.0)
        prompts = Prompts(tiny.tokenizer(), student.manifest.follower_turn)
        asked = [prompts.follower([{"role": "user", "content": "which A B C"}], prompts.ids("B C"))] * 200
        answers = HFRollout(BundlePolicies(student), how, prompts.end_ids).sample(asked, "follower", range(200))
        return sum(answer.ids.count(tiny.WORDS.index("A")) for answer in answers) / 200

    assert np.mean([as_written(1.0, seed) for seed in range(3)]) > 1.3 * as_written(0.05, 0)


def group(draft: Answer, refined: tuple[Answer, ...]) -> Candidates:
    return Candidates(DraftedChat(tiny.CHAT, draft), refined)


def test_the_most_preferred_is_chosen_and_an_abstention_chooses_nothing() -> None:
    refined = (Answer("B"), Answer("A A A"), NONE, Answer("A"))
    groups = [
        group(Answer("A A"), refined),
        group(Answer("C"), (Answer("B"), Answer("A"))),
        group(Answer("A"), (NONE, Answer("C A"))),
    ]
    assert choose(groups, more_as) == [1, 1, None]
    assert choose(groups, lambda chats, first, second: np.full(len(first), np.nan)) == [None, None, None]


def test_of_answers_that_are_as_good_the_one_nearest_to_the_draft_is_chosen() -> None:
    """And a better one wins however much it changes."""
    refined = (Answer("A C C C"), Answer("A B B"), Answer("B B"), Answer("A A C C C C"))
    assert choose([group(Answer("B B B"), refined[:3])], more_as, edit_cost=0.5) == [1]
    assert choose([group(Answer("B B B"), refined[:2])], more_as) == [0]
    assert choose([group(Answer("B B B"), refined)], more_as, edit_cost=0.5) == [3]


def test_the_draft_is_not_chosen_however_good_it_is() -> None:
    """It would teach to copy."""
    assert choose([group(Answer("A A A"), (Answer("B"), Answer("B A")))], more_as) == [1]


def test_a_configuration_with_repairs_is_told_which_version_had_them(
    tmp_path: Path, teachers: dict[Role, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distill", str(config(tmp_path, teachers, repairs=["instructed.jsonl"]))]) == 1
    assert "repairs: version 0.1.0 was the last that repaired answers" in capsys.readouterr().err


def test_a_gradient_that_is_not_finite_is_skipped_and_five_stop_the_run() -> None:
    weights = torch.nn.Parameter(torch.ones(2))
    clip = Clip(1.0, Path("run"))
    weights.grad = torch.tensor([3.0, 4.0])
    assert clip({"policy": [weights]}, 1) == {"policy": 5.0}
    assert weights.grad.norm() == pytest.approx(1.0)
    for step in range(2, 6):
        weights.grad = torch.tensor([math.nan, 0.0])
        clip({"policy": [weights]}, step)
        assert clip.has_skipped
        assert weights.grad is None
    weights.grad = torch.tensor([math.inf, 0.0])
    with pytest.raises(TrainingError, match="step 6: no finite gradient for 5 steps; the checkpoints in run are whole"):
        clip({"policy": [weights]}, 6)


def test_an_answer_that_was_cut_has_no_end() -> None:
    prompts = Prompts(tiny.tokenizer())
    assert ids_of(Answer("A B", "stop"), prompts, tiny.END) == (1, 2, tiny.END)
    assert ids_of(Answer("A B", "length"), prompts, tiny.END) == (1, 2)
    assert ids_of(Answer("A B", "kept"), prompts, tiny.END) == ()
    assert ids_of(NONE, prompts, tiny.END) == ()
    assert DistillationExample("leader", (1,), (2,)).share == 0.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"generation": {"generator": "hf", "temperature": 0}}, "generation.temperature"),
        ({"follower": "builtin:smollm2-135m"}, "follower: builtin:smollm2-135m has no adapter to start from"),
        ({"start": "builtin:smollm2-135m"}, "start: builtin:smollm2-135m has no adapter to start from"),
        ({"leader": "builtin:smollm2-135m"}, "leader: builtin:smollm2-135m has another vocabulary"),
        ({"max_prompt_tokens": 3}, "leader: none of 24 prompts fits max_prompt_tokens"),
    ],
)
def test_what_cannot_be_is_named(
    changes: dict[str, Any], said: str, tmp_path: Path, teachers: dict[Role, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distill", str(config(tmp_path, teachers, **changes))]) == 1
    assert said in capsys.readouterr().err


def test_a_bundle_that_is_there_is_not_written_over(
    tmp_path: Path, teachers: dict[Role, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path, teachers)
    (tmp_path / "run" / BUNDLE).mkdir(parents=True)
    assert main(["distill", str(path)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_one_of_several_processes_refuses(
    tmp_path: Path,
    teachers: dict[Role, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["distill", str(config(tmp_path, teachers))]) == 1
    assert "this is one of 2" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
