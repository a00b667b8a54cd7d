"""`slhf-train evaluate` from end to end on a tiny Llama, and every shipped configuration on it."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import StaticCache

from slhf import Bundle, OwnAnswers, RoleWeights, read_bundle, write_bundle
from slhf_training.cli import main
from slhf_training.config import read_config
from slhf_training.evaluation import GenerationSettings, evaluate_settings
from slhf_training.evaluation.generation import BundlePolicies, Plain, Task
from slhf_training.evaluation.run import READABLE, REPORT
from slhf_training.models.bundles import open_bundle
from slhf_training.rollout import RolloutSettings
from slhf_training.rollout.hf import HFRollout
from slhf_training.types import ROLES, Chat, Player, Probabilities
from tests.training import tiny
from tests.training.evaluation.fakes import jsonl, longer

EXAMPLES = Path(__file__).resolve().parents[3] / "training" / "examples" / "paper"
PLAYERS: tuple[Player, ...] = ("leader", "follower", "reference")
HOW = GenerationSettings(generator="hf", max_new_tokens=4, batch_size=2, temperature=1.0)


def judge(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
    """Named in configurations: the longer answer wins."""
    return longer(chats, first, second)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both roles share the weights."""
    folder = tmp_path_factory.mktemp("bundle")
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    write_bundle(folder, Bundle(name="tiny", follower_turn="improve it", trained="no"))
    return folder


def instead(folder: Path, config: Path, bundle: Path) -> Path:
    """What a dry run puts in place of real models, data and judges; the sections stay as they are shipped."""
    shipped = read_config(config, evaluate_settings())
    prompts = jsonl(folder / "prompts.jsonl", [{"prompt": "which"}, {"prompt": "which A"}, {"prompt": "say B"}])
    changes: dict[str, Any] = {
        "output_dir": str(folder / "out"),
        "models": {name: {"bundle": str(bundle)} for name in shipped.models},
        "prompts": {"files": [str(prompts)]},
        "preference": {"kind": "callable", "function": f"{__name__}:judge"},
        "generation": HOW.model_dump(mode="json"),
        "resamples": 20,
    }
    sections: dict[str, Any] = shipped.sections()
    if "ifeval" in sections:
        row = {"key": 1, "prompt": "say", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
        asked = jsonl(folder / "ifeval.jsonl", [row])
        players = list(sections["ifeval"].players)
        changes["ifeval"] = {"files": [str(asked)], "players": players, "checker": "exact"}
    if "alpaca_eval" in sections:
        changes["alpaca_eval"] = {"prompts": changes["prompts"], "players": list(sections["alpaca_eval"].players)}
    path = folder / "instead.yaml"
    path.write_text(yaml.safe_dump(changes))
    return path


def test_there_are_configurations_for_the_papers_tables() -> None:
    assert {path.name for path in EXAMPLES.glob("*.yaml")} >= {"qwen2.5-0.5b.yaml", "tulu-3-8b.yaml"}


@pytest.mark.parametrize("config", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_runs_on_a_tiny_model(
    config: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = instead(tmp_path, config, bundle)
    assert main(["evaluate", str(config), "--instead", str(changes), "--limit", "2"]) == 0
    out = tmp_path / "out"
    assert capsys.readouterr().out == f"{out / READABLE}\n"
    report = json.loads((out / REPORT).read_text(encoding="utf-8"))
    shipped = read_config(config, evaluate_settings())
    computed = {"round_robin", "refinement", "rounds", "cycles", "ifeval"}
    assert set(report["sections"]) == computed & set(shipped.sections())
    assert report["prompts"] == 2
    assert {model["trained"] for model in report["models"].values()} == {"no"}


def test_checked_tasks_run_from_the_command_on_a_tiny_model(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its answers are noise, so that drafts which are right are broken, and each has its tokens counted."""
    check = {"kind": "exact", "answer": "A"}
    rows = [{"prompt": prompt, "draft": "A", "model": "gpt", "check": check} for prompt in ("say A", "which A")]
    task = {"data": {"files": [str(jsonl(tmp_path / "drafts.jsonl", rows))]}}
    how = {
        "output_dir": str(tmp_path / "out"),
        "models": {"tiny": {"bundle": str(bundle)}},
        "generation": HOW.model_dump(mode="json"),
        "resamples": 20,
        "checked": {"tasks": {"letters": task}, "followers": ["tiny"], "rounds": 2, "two_answers": ["tiny"]},
    }
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(how))
    assert main(["evaluate", str(tmp_path / "evaluate.yaml")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / READABLE}\n"
    group = json.loads((tmp_path / "out" / REPORT).read_text(encoding="utf-8"))["sections"]["checked"]["tasks"][
        "letters"
    ]
    (player,) = group["players"]
    assert player["right"]["value"] == 1
    assert [row["rows"] for row in player["rounds"]] == [2, 2]
    assert player["rounds"][0]["mended"] is None
    assert 0 < player["rounds"][0]["tokens"][1] <= 4
    assert 0 < group["two_answers"][0]["tokens"] <= 8


def answers(generator: Plain, tasks: Sequence[Task]) -> dict[tuple[int, int], str | None]:
    found: dict[tuple[int, int], str | None] = {}
    generator.write(tasks, lambda task, place, answer: found.update({(task, place): answer.text}))
    return found


def test_an_answer_does_not_depend_on_what_is_written_beside_it(bundle: Path) -> None:
    generator = Plain("tiny", open_bundle("tiny", str(bundle)), HOW)
    tasks = [
        Task(tiny.CHAT, None, 3, seed=1),
        Task([{"role": "user", "content": "say A B C which"}], None, 1, seed=2),
        Task(tiny.CHAT, "A B", 2, seed=3),
    ]
    together = answers(generator, tasks)
    assert len(together) == 3 + 1 + 2
    for number, task in enumerate(tasks):
        alone = answers(generator, [task])
        assert {place: text for (_, place), text in alone.items()} == {
            place: text for (which, place), text in together.items() if which == number
        }


def test_a_run_that_goes_on_from_a_draft_writes_the_same(bundle: Path) -> None:
    """Rounds are encoded from text, so a draft that was read back from disk changes nothing."""
    generator = Plain("tiny", open_bundle("tiny", str(bundle)), HOW)
    whole = answers(generator, [Task(tiny.CHAT, None, 2, seed=1)])
    rest = answers(generator, [Task(tiny.CHAT, whole[0, 0], 1, seed=1, round=1)])
    assert rest[0, 0] == whole[0, 1]


def test_what_finds_no_room_is_kept_or_refused(bundle: Path) -> None:
    generator = Plain("tiny", open_bundle("tiny", str(bundle)), HOW)
    long = "A " * 520  # the model has 512 positions
    found = answers(
        generator,
        [
            Task([{"role": "user", "content": long}], None, 2, 1),
            Task(tiny.CHAT, long, 1, 1),
            Task(tiny.CHAT, "A", 1, 1),
        ],
    )
    assert (found[0, 0], found[0, 1], found[1, 0]) == (None, None, long)
    assert found[2, 0] is not None


@pytest.fixture
def two_adapters(tmp_path: Path) -> BundlePolicies:
    """A speaker whose roles are adapters on one model."""
    for seed, role in enumerate(ROLES):
        base = tiny.model()
        torch.manual_seed(seed)
        config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        get_peft_model(base, config).save_pretrained(tmp_path / role)
    tiny.model().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    weights = {role: RoleWeights(adapter=role) for role in ROLES}
    write_bundle(tmp_path, Bundle(name="two", leader=weights["leader"], follower=weights["follower"]))
    return BundlePolicies(open_bundle("two", str(tmp_path)))


def test_two_adapters_on_one_base_speak_differently(two_adapters: BundlePolicies) -> None:
    speaker = two_adapters
    ids = torch.tensor([[1, 2, 3]], device=speaker.device)
    logits = [speaker.merged(role)(ids).logits for role in ROLES]  # a model speaks so until the next call
    again = speaker.merged("leader")(ids).logits
    plain = speaker.sampling_reference()(ids).logits
    assert torch.equal(logits[0], again)
    assert not torch.allclose(logits[0], logits[1])
    assert not torch.allclose(logits[0], plain)
    assert torch.allclose(plain.cpu(), tiny.model()(ids.cpu()).logits)


def test_no_two_adapters_share_the_tensors_of_a_decoding_step(two_adapters: BundlePolicies) -> None:
    """A CUDA graph of the step goes on speaking as the adapter that was on when it was captured."""
    rollout = HFRollout(
        two_adapters, RolloutSettings(max_new_tokens=4, dtype="float32"), frozenset([tiny.END]), captured=True
    )
    used: set[int] = set()

    def note(module: Any, args: Any, kwargs: Any) -> None:
        if isinstance(cache := kwargs["past_key_values"], StaticCache):
            used.add(id(cache))

    two_adapters.model.get_base_model().model.register_forward_pre_hook(note, with_kwargs=True)
    caches: dict[Player, set[int]] = {}
    for player in (*PLAYERS, *PLAYERS):
        used.clear()
        rollout.sample([(1, 2, 3)] * 2, player, range(2))
        assert caches.setdefault(player, set(used)) == used
    assert all(len(caches[player]) == 1 for player in PLAYERS)
    assert len(set.union(*caches.values())) == len(PLAYERS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
def test_captured_steps_speak_as_each_adapter(two_adapters: BundlePolicies) -> None:
    settings = RolloutSettings(max_new_tokens=8, dtype="float32")
    usual, captured = (HFRollout(two_adapters, settings, frozenset([tiny.END]), captured=it) for it in (False, None))
    for player in (*PLAYERS, *PLAYERS):
        expected, found = (each.sample([(1, 2, 3)] * 16, player, range(16)) for each in (usual, captured))
        assert [sample.ids for sample in found] == [sample.ids for sample in expected], player


def test_transformers_know_no_bundles_defaults(
    bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    changes = yaml.safe_load(instead(tmp_path, EXAMPLES / "qwen2.5-0.5b.yaml", bundle).read_text())
    changes["generation"]["temperature"] = None
    (tmp_path / "instead.yaml").write_text(yaml.safe_dump(changes))
    config = EXAMPLES / "qwen2.5-0.5b.yaml"
    assert main(["evaluate", str(config), "--instead", str(tmp_path / "instead.yaml")]) == 1
    assert "generation: hf needs a temperature" in capsys.readouterr().err


@pytest.mark.parametrize(
    "says", [{"keeps_by_silence": True}, {"own_answers": OwnAnswers(count=2, max_tokens=9, temperature=0.5)}]
)
def test_transformers_do_not_speak_for_a_bundle_that_keeps_by_silence_or_writes_own_answers(
    says: dict[str, Any], bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    keeping = tmp_path / "keeping"
    shutil.copytree(bundle, keeping)
    write_bundle(keeping, read_bundle(keeping).model_copy(update=says))
    config = EXAMPLES / "qwen2.5-0.5b.yaml"
    assert main(["evaluate", str(config), "--instead", str(instead(tmp_path, config, keeping))]) == 1
    assert "hf neither reads thoughts nor writes own answers" in capsys.readouterr().err


def test_without_the_server_its_package_is_named(
    bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = instead(tmp_path, EXAMPLES / "qwen2.5-0.5b.yaml", bundle)
    for name in [name for name in sys.modules if name.partition(".")[0] == "slhf_server"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "slhf_server", None)
    assert main(["evaluate", str(EXAMPLES / "qwen2.5-0.5b.yaml"), "--instead", str(changes)]) == 1
    assert "pip install slhf-server" in capsys.readouterr().err
