"""What is served has its Follower merged into the base, and both roles say the same as before."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from slhf import Bundle, RoleWeights, write_bundle
from slhf.weights import logits_of
from slhf_server.bundles.merging import _compare, merged
from slhf_server.bundles.opened import OpenBundle
from slhf_server.loading.opening import open_bundle
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import Settings
from tests.training import tiny

IDS = torch.tensor([[1, 2, 3, 4]])


@pytest.fixture
def shared(tmp_path: Path) -> OpenBundle:
    """A tiny random Llama with one adapter, which changes what it says, for both roles."""
    directory = tmp_path / "bundle"
    base = tiny.model()
    base.save_pretrained(directory)
    tiny.tokenizer().save_pretrained(directory)
    torch.manual_seed(0)
    adapted = get_peft_model(base, LoraConfig(r=2, lora_alpha=8, target_modules="all-linear", init_lora_weights=False))
    adapted.save_pretrained(directory / "policy")
    role = RoleWeights(adapter="policy")
    write_bundle(directory, Bundle(name="tiny", leader=role, follower=role, trained="stackelberg"))
    return open_bundle(Settings(bundle=str(directory)))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


def test_merged_weights_say_what_base_and_adapter_say(shared: OpenBundle, tmp_path: Path) -> None:
    found = merged(shared, tmp_path / "cache")
    assert (found.adapter("leader"), found.adapter("follower")) == (None, None)
    assert found.manifest.card() == shared.manifest.card()
    base = AutoModelForCausalLM.from_pretrained(shared.weights)
    plain = logits(base)
    adapted = logits(PeftModel.from_pretrained(base, str(shared.adapter("leader"))))
    told = logits(AutoModelForCausalLM.from_pretrained(found.weights))
    assert torch.allclose(told, adapted, atol=1e-5)
    assert not torch.allclose(told, plain, atol=1e-2)
    assert (found.weights / "tokenizer.json").exists()


def test_they_are_made_once_and_anew_for_another_adapter(shared: OpenBundle, tmp_path: Path) -> None:
    first = merged(shared, tmp_path / "cache").weights
    made = (first / "model.safetensors").stat().st_mtime_ns
    again = merged(shared, tmp_path / "cache").weights
    assert again == first
    assert (again / "model.safetensors").stat().st_mtime_ns == made

    adapter = shared.directory / "policy" / "adapter_model.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(adapter).items()}, adapter)
    assert merged(shared, tmp_path / "cache").weights != first


def with_leader(shared: OpenBundle, leader: str | None) -> OpenBundle:
    """The same with roles of their own. The Leader's adapter has another rank and other modules."""
    if leader is not None:
        torch.manual_seed(1)
        how = LoraConfig(r=3, lora_alpha=3, target_modules=["v_proj", "up_proj"], init_lora_weights=False)
        base = AutoModelForCausalLM.from_pretrained(shared.weights)
        get_peft_model(base, how).save_pretrained(shared.directory / leader)
    roles = {"leader": RoleWeights(adapter=leader), "follower": RoleWeights(adapter="policy")}
    write_bundle(shared.directory, Bundle(name="tiny", **roles))
    return open_bundle(Settings(bundle=str(shared.directory)))


@pytest.mark.parametrize("leader", ["own", None])
def test_with_roles_of_their_own_the_follower_is_merged_and_the_leader_takes_it_back(
    leader: str | None, shared: OpenBundle, tmp_path: Path
) -> None:
    bundle = with_leader(shared, leader)
    found = merged(bundle, tmp_path / "cache")
    assert found.adapter("follower") is None
    assert found.manifest.card() == bundle.manifest.card()

    def told(weights: Path, adapter: Path | None) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(weights)
        return logits(model if adapter is None else PeftModel.from_pretrained(model, str(adapter)))

    for role in ("leader", "follower"):
        expected = told(bundle.weights, bundle.adapter(role))
        assert torch.allclose(told(found.weights, found.adapter(role)), expected, atol=1e-5)
    leaders, followers = (told(bundle.weights, bundle.adapter(role)) for role in ("leader", "follower"))
    assert not torch.allclose(leaders, followers, atol=1e-2)
    again = merged(bundle, tmp_path / "cache")
    assert (again.weights, again.manifest) == (found.weights, found.manifest)


def test_an_adapter_whose_ranks_differ_is_no_reason_not_to_start(shared: OpenBundle, tmp_path: Path) -> None:
    """Merged where both roles have it; on top of merged weights it could not be told from its configuration."""
    alone = adapted(shared, False, target_modules=["q_proj", "down_proj"], rank_pattern={"q_proj": 5})
    assert merged(alone, tmp_path / "cache").adapter("follower") is None
    bundle = with_leader(alone, None)
    assert merged(bundle, tmp_path / "cache") is bundle


def edited(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_what_cannot_be_merged_keeps_its_adapters(shared: OpenBundle, tmp_path: Path) -> None:
    """A Follower without an adapter, an adapter whose difference to another one is no LoRA, a quantised base."""
    cache = tmp_path / "cache"
    bundle = with_leader(shared, "own")
    for role in ("own", "policy"):
        for key in ("use_dora", "use_rslora", "modules_to_save"):
            edited(shared.directory / role / "adapter_config.json", **{key: True})
            assert merged(bundle, cache) is bundle
            edited(shared.directory / role / "adapter_config.json", **{key: None})
    leads = bundle.manifest.model_copy(update={"follower": RoleWeights()})
    leading = replace(bundle, manifest=leads)
    assert merged(leading, cache) is leading
    edited(shared.directory / "config.json", quantization_config={"quant_method": "fp8"})
    assert merged(bundle, cache) is bundle
    assert merged(shared, cache) is shared
    assert not cache.exists()


def adapted(shared: OpenBundle, tied: bool, **how: Any) -> OpenBundle:
    """The same with another adapter, on a base whose head is its embedding or is not."""
    directory = shared.directory
    shutil.rmtree(directory / "policy")
    base = tiny.model(tied=tied)
    base.save_pretrained(directory)
    model = get_peft_model(base, LoraConfig(r=2, lora_alpha=8, init_lora_weights=False, **how))
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            parameter.data += torch.randn_like(parameter)
    model.save_pretrained(directory / "policy")
    return open_bundle(Settings(bundle=str(directory)))


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings", "ignore:.*tied", "ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "how",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "use_dora": True},
        {"target_modules": ["q_proj"], "use_rslora": True},
    ],
    ids=lambda how: "+".join(map(str, how.values())),
)
def test_whatever_an_adapter_changes_is_said_by_the_merged_weights(
    shared: OpenBundle, tmp_path: Path, how: dict[str, Any], tied: bool
) -> None:
    """Head and embedding too, also where the base has one tensor for both."""
    bundle = adapted(shared, tied, **how)
    found = merged(bundle, tmp_path / "cache")
    plain = AutoModelForCausalLM.from_pretrained(bundle.weights)
    expected = logits(PeftModel.from_pretrained(plain, str(bundle.adapter("follower"))))
    told = logits(AutoModelForCausalLM.from_pretrained(found.weights))
    assert torch.allclose(told, expected, atol=1e-4)


GENERATION = b'{"do_sample": false,\t"temperature": 0.6, "top_p": 0.9}'


def test_all_but_the_weights_is_the_bases_own_byte_for_byte(shared: OpenBundle, tmp_path: Path) -> None:
    """Generation settings that transformers refuses to save, and a tokenizer that it would save with other ids."""
    base = shared.weights
    (base / "generation_config.json").write_bytes(GENERATION)
    edited(base / "tokenizer_config.json", legacy=True, tokenizer_class="LlamaTokenizer")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "rag.jinja").write_text("{{ messages }}")
    (base / "tokenizer.model").write_bytes(b"\x00sentencepiece")
    (base / "model.safetensors.index.json").write_text("{}")  # of shards, which are merged into one file
    (base / "pytorch_model.bin").write_bytes(b"")
    weights = merged(shared, tmp_path / "cache").weights
    others = [path for path in base.rglob("*") if path.is_file() and "policy" not in path.parts]
    names = {path.relative_to(base) for path in others} - {Path("slhf.json"), Path("pytorch_model.bin")}
    names.discard(Path("model.safetensors.index.json"))
    assert {path.relative_to(weights) for path in weights.rglob("*") if path.is_file()} == names
    for name in names - {Path("model.safetensors")}:
        assert (weights / name).read_bytes() == (base / name).read_bytes(), name


def test_an_adapter_whose_weights_bear_other_names_is_no_silent_nothing(shared: OpenBundle, tmp_path: Path) -> None:
    adapter = shared.directory / "policy" / "adapter_model.safetensors"
    save_file({name.replace("q_proj", "query"): t for name, t in load_file(adapter).items()}, adapter)
    with pytest.raises(SettingsError, match="'policy' does not fit its base model: .*missing adapter keys"):
        merged(shared, tmp_path / "cache")


def test_what_failed_is_said_and_nothing_is_kept(shared: OpenBundle, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    weights = shared.weights / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SettingsError, match="^bundle: the base model cannot be read: ") as refused:
        merged(shared, cache)
    assert "\n" not in str(refused.value)
    weights.write_bytes(whole)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_merged_weights_that_say_something_else_are_not_kept(shared: OpenBundle, tmp_path: Path) -> None:
    """As the base's configuration is copied, one that ties head and embedding of unlike weights would be such a case:
    the comparison is with what is on disk."""
    model = AutoModelForCausalLM.from_pretrained(shared.weights)
    expected = {"": logits_of(model)}
    model.model.embed_tokens.weight.data *= 1.5
    model.save_pretrained(tmp_path / "other")
    with pytest.raises(SettingsError, match=r"logits differ by \d+\.\d%\), so they are not kept"):
        _compare(tmp_path / "other", expected)
    _compare(shared.weights, expected)


def test_directories_of_an_earlier_format_are_not_read(shared: OpenBundle, tmp_path: Path) -> None:
    found = merged(shared, tmp_path / "cache")
    assert found.weights.name.startswith("merged-2-")


def test_an_adapter_of_another_model_stops_the_start_and_leaves_nothing_behind(
    shared: OpenBundle, tmp_path: Path
) -> None:
    adapter = shared.directory / "policy" / "adapter_model.safetensors"
    save_file({name: torch.cat([tensor, tensor]) for name, tensor in load_file(adapter).items()}, adapter)
    with pytest.raises(SettingsError, match="bundle: the adapter 'policy' does not fit its base model"):
        merged(shared, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").glob("merged-*") if path.suffix != ".lock"]
    config = shared.directory / "policy" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": "NONSENSE"}))
    with pytest.raises(SettingsError, match="does not fit"):
        merged(shared, tmp_path / "cache")
