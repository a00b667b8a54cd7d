"""From two steps of training to a bundle that `read_bundle`, which the server uses, takes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from slhf import BundleError, read_bundle
from slhf_server.bundles.merging import merged
from slhf_training.cli import main
from slhf_training.data import Example, Pair
from slhf_training.errors import SettingsError
from slhf_training.fit import FitSettings
from slhf_training.fit.run import Interpolation, export, start_run
from slhf_training.fit.trainer import build_roles, build_trainer, load_model
from slhf_training.models.bundles import open_bundle
from slhf_training.reward.backbone import Backbone
from slhf_training.reward.bundled import carry
from slhf_training.reward.model import Head, Manifest, RewardModel
from tests.training import tiny
from tests.training.test_trainer import CHATS, fewer_as


def trained_run(directory: Path, **changes: object) -> FitSettings:
    model = directory / "model"
    generation = model / "generation_config.json"
    said = generation.read_bytes() if generation.exists() else None
    tiny.model().save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    if said is not None:
        generation.write_bytes(said)
    fit = tiny.settings(directory / "run", model=str(model), data={"files": [directory / "chats.jsonl"]}, **changes)
    start_run(fit)
    build_trainer(fit, CHATS, fewer_as, [Example(tiny.CHAT, Pair("A B", "C"))]).train()
    return fit


def test_separate_adapters_lie_beside_a_copy_of_the_base(tmp_path: Path) -> None:
    trained_run(tmp_path, drafts={"data": [{"files": [tmp_path / "drafts.jsonl"]}], "per_step": 2})
    (tmp_path / "model" / "README.md").write_text("# The base's card")
    (tmp_path / "evaluation.json").write_text('{"follower_vs_leader": 0.7}')
    command = [
        "export",
        str(tmp_path / "run"),
        str(tmp_path / "bundle"),
        "--evaluation",
        str(tmp_path / "evaluation.json"),
    ]
    assert main(command) == 0
    bundle = read_bundle(tmp_path / "bundle")
    assert (bundle.name, bundle.trained, bundle.base_model) == ("bundle", "stackelberg", ".")
    assert (bundle.leader.adapter, bundle.follower.adapter) == ("leader", "follower")
    assert bundle.follower_turn == "improve it"
    assert bundle.evaluation == {"follower_vs_leader": 0.7}
    assert bundle.training["step"] == 2
    assert bundle.training["data"] == {"files": ["chats.jsonl"]}
    assert bundle.training["drafts"] == {"data": [{"files": ["drafts.jsonl"]}], "per_step": 2}
    assert "leader/reward" in bundle.training["metrics"]
    assert not (tmp_path / "bundle" / "README.md").exists()
    for file in ("config.json", "tokenizer.json", "leader/adapter_model.safetensors"):
        assert (tmp_path / "bundle" / file).is_file()
    everything = "".join(p.read_text() for p in (tmp_path / "bundle").rglob("*.json"))
    assert str(tmp_path) not in everything


def test_a_baselines_adapter_plays_both_roles(tmp_path: Path) -> None:
    trained_run(tmp_path, algorithm="rloo")
    bundle = export(tmp_path / "run", tmp_path / "bundle", "rloo")
    assert bundle.leader == bundle.follower
    assert bundle.trained == "rloo"


def test_a_run_begins_with_a_bundles_adapters_and_is_exported_without_them(tmp_path: Path) -> None:
    trained_run(tmp_path / "one", weights="shared")
    export(tmp_path / "one" / "run", tmp_path / "bundle", "one")
    still = {"steps": 1, "learning_rate": 1e-30}
    trained_run(tmp_path / "two", weights="shared", adapter=str(tmp_path / "bundle"), optimisation=still)
    begun, taken = (
        load_file(directory / "policy" / "adapter_model.safetensors")
        for directory in (tmp_path / "bundle", tmp_path / "two" / "run" / "checkpoint-1")
    )
    assert begun.keys() == taken.keys()
    assert all(torch.equal(begun[key], taken[key]) for key in begun)
    assert any(factor.abs().max() > 0 for key, factor in begun.items() if "lora_B" in key)
    (tmp_path / "bundle").rename(tmp_path / "gone")
    second = export(tmp_path / "two" / "run", tmp_path / "second", "two")
    assert second.training["adapter"] == "bundle"
    assert str(tmp_path) not in (tmp_path / "second" / "slhf.json").read_text()
    assert not torch.equal(*(answers(tmp_path / name) for name in ("second", "one/model")))


def answers(bundle: Path) -> torch.Tensor:
    """Logits of a bundle with its adapter, or of a model."""
    base = AutoModelForCausalLM.from_pretrained(bundle)
    model = PeftModel.from_pretrained(base, bundle / "policy") if (bundle / "policy").exists() else base
    with torch.no_grad():
        return torch.as_tensor(model(input_ids=torch.tensor([[1, 2, 3]])).logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": {"r": 4, "alpha": 16}}, "adapter: .*policy has not the rank, alpha, modules and layers of `lora`"),
        ({"lora": {"r": 8, "alpha": 8}}, "adapter: .*policy has not the rank, alpha"),
        ({"lora": {"r": 8, "alpha": 16, "layers": [1, 2]}}, "adapter: .*policy has not the rank"),
        ({"weights": "separate"}, "adapter: .*leader holds no adapter"),
        ({"adapter": "./nothing"}, "adapter: .*nothing.*policy holds no adapter"),
    ],
)
def test_an_adapter_of_another_shape_or_none_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    trained_run(tmp_path / "one", weights="shared")
    export(tmp_path / "one" / "run", tmp_path / "bundle", "one")
    asked = {"weights": "shared", "adapter": str(tmp_path / "bundle")} | changes
    with pytest.raises(SettingsError, match=message):
        trained_run(tmp_path / "two", **asked)


def test_part_of_the_way_from_the_run_it_started_from(tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "two")):
        trained_run(tmp_path / name, weights="shared", seed=seed)
    command = ["export", str(tmp_path / "two" / "run"), str(tmp_path / "bundle")]
    assert main([*command, "--start", str(tmp_path / "one" / "run"), "--start-step", "2", "--share", "0.25"]) == 0
    first, second = (
        load_file(tmp_path / name / "run" / "checkpoint-2" / "policy" / "adapter_model.safetensors")
        for name in ("one", "two")
    )
    for key, found in load_file(tmp_path / "bundle" / "policy" / "adapter_model.safetensors").items():
        torch.testing.assert_close(found, 0.75 * first[key] + 0.25 * second[key])
    assert read_bundle(tmp_path / "bundle").training["share"] == 0.25


def test_an_interpolation_that_cannot_be_is_named(tmp_path: Path) -> None:
    trained_run(tmp_path / "shared", weights="shared")
    trained_run(tmp_path / "separate", weights="separate")
    trained_run(tmp_path / "narrow", weights="shared", lora={"r": 2})
    run = tmp_path / "shared" / "run"
    for start, share, said in (
        ("separate", 0.5, "has no adapter policy"),
        ("narrow", 0.5, "have other shapes"),
        ("shared", 1.5, "--share: expected 0 to 1, got 1.5"),
    ):
        with pytest.raises(SettingsError, match=said):
            export(run, tmp_path / "bundle", "none", interpolation=Interpolation(share, tmp_path / start / "run"))
        assert not (tmp_path / "bundle").exists()
    lonely = ["--start", str(tmp_path / "narrow" / "run")]
    for alone in (lonely, ["--share", "0.5", "--start-step", "2"]):
        assert main(["export", str(run), str(tmp_path / "bundle"), *alone]) == 1


@pytest.mark.parametrize("merge", [False, True])
def test_part_of_the_way_from_the_base(tmp_path: Path, *, merge: bool) -> None:
    """In log-probs as in weights: at 0 it is the base, and half of the way is half of what the adapter adds."""
    trained_run(tmp_path, weights="shared")
    weights = {}
    for share in ("0", "0.5", "1"):
        more = ["--merge"] if merge else []
        command = ["export", str(tmp_path / "run"), str(tmp_path / share), "--share", share, *more]
        assert main(command) == 0
        model = AutoModelForCausalLM.from_pretrained(tmp_path / share)
        if not merge:
            model = PeftModel.from_pretrained(model, tmp_path / share / "policy").merge_and_unload()
        weights[share] = model.state_dict()
    base = tiny.model().state_dict()
    for key, value in base.items():
        torch.testing.assert_close(weights["0"][key], value)
        torch.testing.assert_close(weights["0.5"][key], (value + weights["1"][key]) / 2)
    assert any(not torch.equal(value, weights["1"][key]) for key, value in base.items())


def test_a_lower_rank_is_the_nearest_one(tmp_path: Path) -> None:
    """At the full rank nothing changes; below it, what is lost is the smallest singular values of what is added."""
    trained_run(tmp_path, weights="shared", lora={"r": 4, "alpha": 8})
    added = {}
    for rank in (4, 2):
        target = tmp_path / str(rank)
        assert main(["export", str(tmp_path / "run"), str(target), "--rank", str(rank)]) == 0
        assert read_bundle(target).training["rank"] == rank
        factors = load_file(target / "policy" / "adapter_model.safetensors")
        assert {min(factor.shape) for factor in factors.values()} == {rank}
        model = PeftModel.from_pretrained(tiny.model(), target / "policy").merge_and_unload()
        base = tiny.model().state_dict()
        added[rank] = {key: value - base[key] for key, value in model.state_dict().items() if "_proj" in key}
    whole = PeftModel.from_pretrained(tiny.model(), tmp_path / "run" / "checkpoint-2" / "policy").merge_and_unload()
    for key, value in added[4].items():
        torch.testing.assert_close(value, whole.state_dict()[key] - tiny.model().state_dict()[key])
        values = torch.linalg.svdvals(value)
        torch.testing.assert_close((value - added[2][key]).norm(), values[2:].norm(), rtol=1e-2, atol=1e-5)
    assert any(value.norm() > 0 for value in added[2].values())


def test_a_rank_that_cannot_be_is_named(tmp_path: Path) -> None:
    trained_run(tmp_path, weights="shared", lora={"r": 2})
    for rank, merge, said in ((3, False, "expected 1 to 2"), (0, False, "expected 1 to 2"), (1, True, "only adapters")):
        with pytest.raises(SettingsError, match=f"--rank: {said}"):
            export(tmp_path / "run", tmp_path / "bundle", "b", rank=rank, merge=merge)
        assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("weights", ["shared", "full"])
def test_merged_weights_speak_as_the_trained_model(weights: str, tmp_path: Path) -> None:
    fit = trained_run(tmp_path, weights=weights)
    bundle = export(tmp_path / "run", tmp_path / "bundle", "merged", merge=weights == "shared")
    assert bundle.leader.adapter is None
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "bundle")
    trainer = build_trainer(fit, CHATS, fewer_as)
    trainer.roles.load(tmp_path / "run" / "checkpoint-2")
    ids = torch.tensor([[1, 4, 5]])
    with torch.no_grad():
        expected = trainer.roles.use("leader")(input_ids=ids).logits
        torch.testing.assert_close(exported(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weights", ["shared", "full"])
def test_all_but_the_weights_of_a_merged_model_is_the_bases_own(weights: str, tmp_path: Path) -> None:
    """Also what transformers refuses to save, or saves otherwise; checkpoints of all weights can be written too."""
    base = tmp_path / "model"
    base.mkdir()
    (base / "generation_config.json").write_text('{"do_sample": false,  "temperature": 0.6}')
    (base / "tokenizer.model").write_bytes(b"\x00sentencepiece")
    trained_run(tmp_path, weights=weights)
    assert json.loads((base / "generation_config.json").read_text())["do_sample"] is False
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "bundle"), "--merge"]) == 0
    names = {path.name for path in base.iterdir()} - {"model.safetensors"}
    assert {path.name for path in (tmp_path / "bundle").iterdir()} == names | {"model.safetensors", "slhf.json"}
    for name in names:
        assert (tmp_path / "bundle" / name).read_bytes() == (base / name).read_bytes(), name


def test_a_base_that_is_kept_in_another_type_than_it_was_trained_in_says_so(tmp_path: Path) -> None:
    trained_run(tmp_path, weights="shared")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float16"}))
    export(tmp_path / "run", tmp_path / "bundle", "merged", merge=True)
    assert json.loads((tmp_path / "bundle" / "config.json").read_text())["dtype"] == "float32"


def test_adapters_are_written_in_the_dtype_that_is_asked_for(tmp_path: Path) -> None:
    trained_run(tmp_path, weights="shared")
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "bundle"), "--dtype", "bfloat16"]) == 0
    exact, rounded = (
        load_file(directory / "policy" / "adapter_model.safetensors")
        for directory in (tmp_path / "run" / "checkpoint-2", tmp_path / "bundle")
    )
    assert rounded.keys() == exact.keys()
    assert all(torch.equal(rounded[name], exact[name].bfloat16()) for name in exact)


def test_a_base_that_is_built_in_is_named_and_not_copied(tmp_path: Path, builtin: Path) -> None:
    """The run's own model is a tiny one; what the manifest says follows from the name alone."""
    fit = trained_run(tmp_path, weights="shared")
    named = fit.model_copy(update={"model": "builtin:smollm2-135m"})
    start_run(named)
    tokenizer, base = load_model(named)
    assert len(tokenizer) == base.config.vocab_size
    adapter = build_roles(named, base)
    adapter.save(tmp_path / "run" / "checkpoint-2", write=True)
    bundle = export(tmp_path / "run", tmp_path / "bundle", "b")
    assert bundle.base_model == bundle.root == "builtin:smollm2-135m"
    assert {path.name for path in (tmp_path / "bundle").iterdir()} == {"slhf.json", "policy"}
    opened = open_bundle("model", str(tmp_path / "bundle"))
    assert opened.weights == builtin


def test_a_trained_bundle_is_no_base(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="model: builtin:smollm2-135m-slhf is trained already; its base is builtin"):
        load_model(tiny.settings(tmp_path, model="builtin:smollm2-135m-slhf"))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=torch.tensor([[1, 4, 5]])).logits
    return found


def test_adapters_of_the_upper_layers_are_merged_as_the_server_merges(tmp_path: Path) -> None:
    """The Follower's into the base, the Leader's on top of that; both say what they said in training."""
    fit = trained_run(tmp_path, lora={"layers": (1, 2)})
    export(tmp_path / "run", tmp_path / "bundle", "upper")
    served = merged(open_bundle("model", str(tmp_path / "bundle")), tmp_path / "cache")
    roles = build_roles(fit, load_model(fit)[1])
    base = logits(roles.use_reference())
    roles.load(tmp_path / "run" / "checkpoint-2")
    follower = AutoModelForCausalLM.from_pretrained(served.weights)
    torch.testing.assert_close(logits(follower), logits(roles.use("follower")), rtol=1e-4, atol=1e-4)
    leader = PeftModel.from_pretrained(follower, str(served.adapter("leader")))
    torch.testing.assert_close(logits(leader), logits(roles.use("leader")), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(roles.use("leader")), base, atol=1e-3)


def test_an_adapter_of_the_upper_layers_changes_these_alone_when_merged(tmp_path: Path) -> None:
    trained_run(tmp_path, weights="shared", lora={"layers": (1, 2)})
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "bundle"), "--merge"]) == 0
    base, found = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "bundle"))
    moved = {key for key in base if not torch.equal(base[key], found[key])}
    assert moved == {key for key in base if ".layers.1." in key and "_proj" in key}


def test_two_roles_cannot_be_merged_into_one_model(tmp_path: Path) -> None:
    trained_run(tmp_path)
    with pytest.raises(SettingsError, match="--merge"):
        export(tmp_path / "run", tmp_path / "bundle", "both", merge=True)
    assert not (tmp_path / "bundle").exists()


def test_a_step_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    trained_run(tmp_path)
    with pytest.raises(SettingsError, match=r"no checkpoint 7 in it; there are \[2\]"):
        export(tmp_path / "run", tmp_path / "bundle", "b", step=7)


def test_a_directory_that_is_no_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(json.dumps({}))
    with pytest.raises(SettingsError, match="not the output directory of a fit"):
        export(tmp_path, tmp_path / "bundle", "b")


def test_an_average_is_of_the_last_checkpoints_adapters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    trained_run(tmp_path, save_every=1, optimisation={"steps": 3}, keep_checkpoints=3)
    command = ["export", str(run), str(tmp_path / "bundle")]
    assert main([*command, "--step", "2", "--average", "2"]) == 0
    for adapter in ("leader", "follower"):
        files = [run / f"checkpoint-{step}" / adapter / "adapter_model.safetensors" for step in (1, 2)]
        first, second = map(load_file, files)
        mean = load_file(tmp_path / "bundle" / adapter / "adapter_model.safetensors")
        assert mean.keys() == first.keys()
        for name, tensor in mean.items():
            torch.testing.assert_close(tensor, (first[name] + second[name]) / 2)
    assert read_bundle(tmp_path / "bundle").training["average"] == 2
    for given in (["--average", "4"], ["--average", "1"], ["--average", "2", "--share", "0.5"]):
        assert main([*command[:2], str(tmp_path / "none"), *given]) == 1
        assert "--average" in capsys.readouterr().err


def reward_model(
    directory: Path, backbone: str = "builtin:smollm2-135m", heads: tuple[str, ...] = ("helpful",)
) -> Path:
    """What `slhf-train reward` leaves, as far as a bundle takes it."""
    directory.mkdir()
    manifest = Manifest(backbone=backbone, layers=(1,), max_tokens=64, batch_tokens=64, heads=heads, adapters=False)
    (directory / "reward.json").write_text(manifest.model_dump_json())
    (directory / "heads.safetensors").write_bytes(b"weights")
    figures = {"accuracy": 0.69, "interval": [0.64, 0.74], "pairs": 300, "coverage": 1.0, "ece": 0.1}
    (directory / "report.json").write_text(json.dumps({"evaluation": {"hh": {name: figures for name in heads}}}))
    return directory


def test_a_bundle_carries_a_judge_with_its_accuracy(tmp_path: Path) -> None:
    trained_run(tmp_path)
    judge = reward_model(tmp_path / "judge", heads=("helpful", "brief"))
    command = ["export", str(tmp_path / "run"), str(tmp_path / "bundle"), "--judge", str(judge)]
    assert main([*command, "--judge-head", "brief"]) == 0
    bundle = read_bundle(tmp_path / "bundle")
    known = {"accuracy": 0.69, "interval": [0.64, 0.74], "pairs": 300, "coverage": 1.0}
    assert bundle.card()["judge"] == {"head": "brief", "accuracy": {"hh": known}}
    carried = tmp_path / "bundle" / "judge"
    assert {path.name for path in carried.iterdir()} == {"reward.json", "heads.safetensors"}
    assert json.loads((carried / "reward.json").read_bytes()) == json.loads((judge / "reward.json").read_bytes())
    shutil.rmtree(tmp_path / "bundle" / "judge")
    with pytest.raises(BundleError, match=r"judge: there is no reward model in judge/"):
        read_bundle(tmp_path / "bundle")


def test_a_judge_on_the_bundles_own_base_reads_it_there(tmp_path: Path) -> None:
    trained_run(tmp_path, weights="shared")
    base = str(tmp_path / "model")
    manifest = Manifest(backbone=base, layers=(1,), max_tokens=64, batch_tokens=64, heads=("h",), adapters=False)
    weights = torch.linspace(-1, 1, 64)
    own = RewardModel(manifest, Backbone.load(base, (1,), 64, 64), {"h": Head(weights, torch.tensor(0.5))})
    own.save(tmp_path / "judge")
    scores = own.scores([tiny.CHAT] * 2, ["A B", "C"])
    export(tmp_path / "run", tmp_path / "bundle", "one", judge=tmp_path / "judge")
    with pytest.raises(
        SettingsError, match="is on this machine alone"
    ):  # merged weights are not what it was trained on
        export(tmp_path / "run", tmp_path / "merged", "two", merge=True, judge=tmp_path / "judge")
    shutil.rmtree(base)
    assert (
        RewardModel.load(tmp_path / "bundle" / "judge").scores([tiny.CHAT] * 2, ["A B", "C"]).tolist()
        == scores.tolist()
    )
    assert str(tmp_path) not in (tmp_path / "bundle" / "judge" / "reward.json").read_text()


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"backbone": "/models/mine"}, r"--judge: .*: its backbone, /models/mine, is on this machine alone"),
        ({"heads": ("helpful", "brief")}, r"--judge-head: .* has several: helpful, brief"),
    ],
)
def test_a_judge_that_others_could_not_load_is_not_carried(tmp_path: Path, more: dict[str, Any], problem: str) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(SettingsError, match=problem):
        carry(reward_model(tmp_path / "judge", **more), None, tmp_path / "bundle")
    with pytest.raises(SettingsError, match=r"--judge-head: .* has no head kind; it has helpful"):
        carry(reward_model(tmp_path / "other"), "kind", tmp_path / "bundle")
    with pytest.raises(SettingsError, match=r"--judge: .*nothing: no reward model"):
        carry(tmp_path / "nothing", None, tmp_path / "bundle")
    assert list((tmp_path / "bundle").iterdir()) == []
