"""int8 for CPUs: what is rounded, how far, what stays as it is, and what a setting refuses."""

import importlib
import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from slhf import Bundle, RoleWeights
from slhf_server.bundles.opened import OpenBundle
from slhf_server.bundles.quantization import objection, quantized
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import Settings

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def written(directory: Path, *, qwen: bool = False, tied: bool = True, **how: Any) -> OpenBundle:
    """A random model in bfloat16 beside a tokenizer's files, as a bundle."""
    torch.manual_seed(0)
    sizes = SIZES | {"tie_word_embeddings": tied}
    model: PreTrainedModel = Qwen2ForCausalLM(Qwen2Config(**sizes)) if qwen else LlamaForCausalLM(LlamaConfig(**sizes))
    model.to(torch.bfloat16).save_pretrained(directory, **how)
    (directory / "tokenizer.json").write_bytes(b'{ "odd":  "spacing" }\r\n')
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "tools.jinja").write_bytes(b"{{ 1 }}\n")
    return OpenBundle(directory, Bundle(name="tiny"), directory)


@pytest.fixture
def bundle(tmp_path: Path) -> OpenBundle:
    return written(tmp_path / "bundle")


def wanting(how: str, tmp_path: Path, **more: Any) -> Settings:
    return Settings(cpu_quantization=how, cache_dir=tmp_path / "cache", **more)


def in_int8(bundle: OpenBundle, tmp_path: Path) -> Path:
    found = quantized(bundle, wanting("int8", tmp_path), obstacle=None)
    assert found.manifest == bundle.manifest
    assert found.weights != bundle.weights
    return found.weights


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize(("qwen", "tied"), [(False, True), (True, True), (True, False)])
def test_linear_layers_of_the_blocks_are_rounded_and_all_else_is_kept(qwen: bool, tied: bool, tmp_path: Path) -> None:
    """Rounding is off by at most half a step, and a step is a channel's largest weight over 127."""
    bundle = written(tmp_path / "bundle", qwen=qwen, tied=tied)
    before, after = tensors(bundle.weights), tensors(in_int8(bundle, tmp_path))
    layers = {name for name in before if name.split(".")[-2] in LAYERS and name.endswith(".weight")}
    assert len(layers) == 2 * len(LAYERS)
    assert ("lm_head.weight" in before) is not tied
    assert after.keys() == before.keys() | {f"{name}_scale" for name in layers}
    for name, weight in before.items():
        if name not in layers:
            assert after[name].dtype == weight.dtype
            assert after[name].equal(weight)
            continue
        rounded, scale = after[name], after[f"{name}_scale"]
        assert (rounded.dtype, rounded.shape) == (torch.int8, weight.shape)
        assert (scale.dtype, scale.shape) == (torch.float32, (len(weight), 1))
        assert scale.equal(weight.float().abs().amax(dim=1, keepdim=True) / 127)
        error = (rounded.float() * scale - weight.float()).abs()
        assert (error <= scale * 0.5001).all()
        assert rounded.abs().amax(dim=1).eq(127).all()


def test_a_device_that_multiplies_fewer_steps_exactly_gets_weights_of_its_own(
    bundle: OpenBundle, tmp_path: Path
) -> None:
    whole = tensors(in_int8(bundle, tmp_path))
    made = quantized(bundle, wanting("int8", tmp_path), obstacle=None, largest=64).weights
    small, before = tensors(made), tensors(bundle.weights)
    layers = [name for name in whole if f"{name}_scale" in whole]
    for name in layers:
        assert small[name].abs().amax(dim=1).eq(64).all()
        assert small[f"{name}_scale"].equal(before[name].float().abs().amax(dim=1, keepdim=True) / 64)
    assert layers
    assert in_int8(bundle, tmp_path) != made
    assert all(whole[name].equal(tensor) for name, tensor in tensors(in_int8(bundle, tmp_path)).items())


def test_the_configuration_says_so_in_the_form_of_compressed_tensors(bundle: OpenBundle, tmp_path: Path) -> None:
    config = json.loads((in_int8(bundle, tmp_path) / "config.json").read_bytes())
    said = config.pop("quantization_config")
    assert config == json.loads((bundle.weights / "config.json").read_bytes())
    quantization = importlib.import_module("compressed_tensors.quantization")  # it has no types
    (group,) = quantization.QuantizationConfig.model_validate(said).config_groups.values()
    assert (said["quant_method"], said["format"], said["ignore"]) == (
        "compressed-tensors",
        "int-quantized",
        ["lm_head"],
    )
    assert group.weights is not None
    assert group.input_activations is not None
    assert (group.weights.num_bits, group.weights.strategy, group.weights.dynamic) == (8, "channel", False)
    assert (group.input_activations.num_bits, group.input_activations.strategy) == (8, "token")
    assert group.input_activations.dynamic is True


def test_everything_but_weights_and_configuration_is_the_bases_own_to_the_byte(
    bundle: OpenBundle, tmp_path: Path
) -> None:
    made = in_int8(bundle, tmp_path)
    names = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    assert names == {str(path.relative_to(bundle.weights)) for path in bundle.weights.rglob("*") if path.is_file()}
    for name in names - {"config.json", "model.safetensors"}:
        assert (made / name).read_bytes() == (bundle.weights / name).read_bytes()


def test_a_model_in_shards_stays_in_shards_and_its_index_finds_every_tensor(tmp_path: Path) -> None:
    whole = tensors(in_int8(written(tmp_path / "whole"), tmp_path))
    sharded = written(tmp_path / "sharded", max_shard_size="12KB")
    assert len(list(sharded.weights.glob("*.safetensors"))) > 2
    made = in_int8(sharded, tmp_path)
    index = json.loads((made / "model.safetensors.index.json").read_bytes())
    assert index["weight_map"].keys() == whole.keys()
    found = {name: load_file(made / file)[name] for name, file in index["weight_map"].items()}
    assert all(found[name].equal(tensor) for name, tensor in whole.items())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())
    assert {path.name for path in made.glob("*.safetensors")} == set(index["weight_map"].values())


def test_a_channel_of_zeros_stays_one(bundle: OpenBundle, tmp_path: Path) -> None:
    rewrite(bundle, lambda weight: weight[3].zero_())
    after = tensors(in_int8(bundle, tmp_path))
    assert not after[FIRST][3].any()
    assert after[f"{FIRST}_scale"].isfinite().all()
    assert after[FIRST][2].any()


FIRST = "model.layers.0.mlp.down_proj.weight"


def rewrite(bundle: OpenBundle, change: Any, name: str = FIRST) -> None:
    """Change one tensor of the base in place."""
    file = bundle.weights / "model.safetensors"
    found = load_file(file)
    change(found[name])
    save_file(found, file)


def test_it_is_made_once_and_anew_for_other_weights(bundle: OpenBundle, tmp_path: Path) -> None:
    first = in_int8(bundle, tmp_path)
    made = (first / "model.safetensors").stat().st_mtime_ns
    assert in_int8(bundle, tmp_path) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == made
    rewrite(bundle, lambda weight: weight.mul_(2))
    assert in_int8(bundle, tmp_path) != first


def test_the_log_says_what_is_served_at_every_start(
    bundle: OpenBundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        with caplog.at_level(logging.INFO, "slhf_server.bundles.quantization"):
            in_int8(bundle, tmp_path)
        assert f"int8 (W8A8), made from {bundle.weights}" in caplog.messages[-1]
        caplog.clear()


KILLED = """
import resource, signal, sys
from pathlib import Path
from slhf import Bundle
from slhf_server.bundles.opened import OpenBundle
from slhf_server.bundles.quantization import quantized
from slhf_server.settings.server import Settings
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))  # the kernel kills who writes more into a file
weights = Path(sys.argv[1])
settings = Settings(cpu_quantization="int8", cache_dir=sys.argv[2])
quantized(OpenBundle(weights, Bundle(name="tiny"), weights), settings, obstacle=None)
"""


def test_a_start_that_is_killed_half_way_leaves_nothing_that_a_later_one_takes_for_whole(
    bundle: OpenBundle, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    child = subprocess.run([sys.executable, "-c", KILLED, str(bundle.weights), str(cache)], timeout=120, check=False)
    assert child.returncode == -signal.SIGXFSZ
    (left,) = cache.glob("*.partial")
    assert (left / "model.safetensors").stat().st_size <= 12_000
    made = in_int8(bundle, tmp_path)
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == [made]
    assert len(tensors(made)) == len(tensors(bundle.weights)) + 2 * len(LAYERS)


def test_weights_that_cannot_be_read_end_the_start_and_leave_nothing(bundle: OpenBundle, tmp_path: Path) -> None:
    file = bundle.weights / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4000])
    for how in ("auto", "int8"):
        with pytest.raises(SettingsError, match=r"^bundle: .*model\.safetensors"):
            quantized(bundle, wanting(how, tmp_path), obstacle=None)
    assert not (tmp_path / "cache").exists()


def test_weights_that_are_no_numbers_are_not_rounded(bundle: OpenBundle, tmp_path: Path) -> None:
    rewrite(bundle, lambda weight: weight.fill_(float("nan")))
    with pytest.raises(SettingsError, match=rf"^bundle: {FIRST}: .*not finite"):
        quantized(bundle, wanting("int8", tmp_path), obstacle=None)
    assert not list((tmp_path / "cache").glob("int8*.partial"))


def large(directory: Path, parameters: int) -> OpenBundle:
    """A model of so many parameters by its files' headers, whose numbers are a hole in a file."""
    bundle = written(directory)
    own = load_file(directory / "model.safetensors")
    rest = parameters - sum(tensor.numel() for tensor in own.values())
    header: dict[str, Any] = {}
    content = b""
    for name, tensor in own.items():
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        place = [len(content), len(content) + len(raw)]
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": place}
        content += raw
    end = len(content) + 2 * rest
    header["spare.weight"] = {"dtype": "BF16", "shape": [rest], "data_offsets": [len(content), end]}
    head = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head + content)
        file.truncate(8 + len(head) + end)
    return bundle


def test_auto_begins_at_half_a_billion_parameters(tmp_path: Path) -> None:
    """Qwen2.5's 0.5B has 494,032,768 of them, SmolLM2's 360M 361,821,120."""
    settings = wanting("auto", tmp_path)
    assert objection(large(tmp_path / "half", 494_032_768), settings) is None
    reason = objection(large(tmp_path / "third", 361_821_120), settings)
    assert reason is not None
    assert reason.startswith("it has 362 million parameters")
    assert objection(large(tmp_path / "again", 361_821_120), wanting("int8", tmp_path)) is None


def test_auto_leaves_a_small_model_and_none_any(bundle: OpenBundle, tmp_path: Path) -> None:
    for how in ("auto", "none"):
        assert quantized(bundle, wanting(how, tmp_path), obstacle=None) is bundle
    assert not (tmp_path / "cache").exists()


def configured(bundle: OpenBundle, **changes: Any) -> OpenBundle:
    file = bundle.weights / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return bundle


def renamed(bundle: OpenBundle, before: str, after: str) -> OpenBundle:
    file = bundle.weights / "model.safetensors"
    save_file({name.replace(before, after): tensor for name, tensor in load_file(file).items()}, file)
    return bundle


def retyped(bundle: OpenBundle) -> OpenBundle:
    file = bundle.weights / "model.safetensors"
    save_file({name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(file).items()}, file)
    return bundle


def pickled(bundle: OpenBundle) -> OpenBundle:
    file = bundle.weights / "model.safetensors"
    file.rename(file.with_name("pytorch_model.bin"))
    return bundle


def with_roles(bundle: OpenBundle, *roles: str) -> OpenBundle:
    manifest = bundle.manifest.model_copy(update={role: RoleWeights(adapter=role) for role in roles})
    return replace(bundle, manifest=manifest)


MISFITS: dict[str, Callable[[OpenBundle], OpenBundle]] = {
    "its base is quantised already": lambda bundle: configured(bundle, quantization_config={"quant_method": "fp8"}),
    "its roles keep LoRA adapters": lambda bundle: with_roles(bundle, "leader"),
    "model.layers.0.mlp.experts.0.down_proj.weight is no layer": lambda b: renamed(b, "mlp.", "mlp.experts.0."),
    "model.layers.0.attn.c_attn.weight is no layer": lambda b: renamed(b, "self_attn.q_proj", "attn.c_attn"),
    "it has no Linear layers": lambda bundle: renamed(bundle, "model.layers.", "transformer.h."),
    "its numbers are F8": retyped,
    "it has neither model.safetensors nor": pickled,
}


@pytest.mark.parametrize("reason", MISFITS)
def test_what_cannot_be_rounded_keeps_its_weights_and_int8_refuses_it(
    reason: str, bundle: OpenBundle, tmp_path: Path
) -> None:
    changed = MISFITS[reason](bundle)
    assert quantized(changed, wanting("auto", tmp_path), obstacle=None) is changed
    with pytest.raises(SettingsError, match=rf"^cpu_quantization: int8 is not possible: .*{reason}"):
        quantized(changed, wanting("int8", tmp_path), obstacle=None)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("obstacle", ["it is for CPUs, and this is none", "this CPU has neither VNNI nor AMX"])
def test_a_device_that_does_not_compute_in_int8_keeps_the_weights_and_int8_refuses_it(
    obstacle: str, tmp_path: Path
) -> None:
    bundle = large(tmp_path / "large", 1_543_714_304)
    assert quantized(bundle, wanting("auto", tmp_path), obstacle) is bundle
    assert quantized(bundle, wanting("none", tmp_path), obstacle) is bundle
    with pytest.raises(SettingsError, match=rf"^cpu_quantization: int8 is not possible: {obstacle}"):
        quantized(bundle, wanting("int8", tmp_path), obstacle)


def test_an_operators_own_quantization_wins(bundle: OpenBundle, tmp_path: Path) -> None:
    engine = {"quantization": "fp8"}
    assert quantized(bundle, wanting("auto", tmp_path, engine=engine), obstacle=None) is bundle
    with pytest.raises(SettingsError, match=r"^cpu_quantization: .*engine\.quantization is 'fp8'"):
        quantized(bundle, wanting("int8", tmp_path, engine=engine), obstacle=None)


def test_an_index_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    bundle = written(tmp_path / "bundle", max_shard_size="12KB")
    file = bundle.weights / "model.safetensors.index.json"
    index = json.loads(file.read_bytes())
    outside = tmp_path / "outside.safetensors"
    save_file({"model.norm.weight": torch.ones(32)}, outside)
    index["weight_map"]["model.norm.weight"] = f"../{outside.name}"
    file.write_text(json.dumps(index))
    with pytest.raises(SettingsError, match=r"^bundle: .*outside\.safetensors"):
        quantized(bundle, wanting("int8", tmp_path), obstacle=None)


def test_two_merged_models_that_are_alike_at_both_ends_of_their_file_are_two(tmp_path: Path) -> None:
    """As two adapters on upper layers leave them: a revision looks at the ends of large files alone."""
    first, second = (written(tmp_path / "cache" / f"merged-{name}") for name in ("one", "two"))
    file = second.weights / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert in_int8(first, tmp_path) != in_int8(second, tmp_path)
    assert in_int8(first, tmp_path).name.endswith("merged-one")
