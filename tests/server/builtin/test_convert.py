"""A GGUF file in Qwen2's form, of one tiny layer, becomes a bundle."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from slhf import SamplingDefaults, read_bundle
from slhf_server.builtin.convert import convert
from slhf_server.builtin.weights import Weights
from slhf_server.settings.problem import SettingsError

WIDTH, INNER, HEADS, KEY_HEADS = 32, 64, 4, 2
TOKENS = [*"abcdefghijklmnopqrstuvwxyz", "he", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}{{ m.content }}<|im_end|>{% endfor %}"
PUBLISHED = SamplingDefaults(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.1)


def matrix(rows: int, columns: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def write_gguf(file: Path) -> NDArray[np.float32]:
    """Head and embedding differ, as where they were rounded unlike; returns the head."""
    writer: Any = GGUFWriter(file, "qwen2")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * (len(TOKENS) - 3) + [3] * 3)
    writer.add_token_merges(["h e"])
    writer.add_eos_token_id(len(TOKENS) - 1)
    writer.add_bos_token_id(len(TOKENS) - 3)
    writer.add_pad_token_id(len(TOKENS) - 3)
    writer.add_chat_template(TEMPLATE)
    embedding = matrix(len(TOKENS), WIDTH, 1)
    head = embedding + np.float32(0.01)
    keys = WIDTH // HEADS * KEY_HEADS
    shapes = {"attn_q": (WIDTH, WIDTH), "attn_k": (keys, WIDTH), "attn_v": (keys, WIDTH), "attn_output": (WIDTH, WIDTH)}
    shapes |= {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
    tensors = {"token_embd.weight": embedding, "output.weight": head, "output_norm.weight": matrix(1, WIDTH, 2)[0]}
    for seed, (name, shape) in enumerate(shapes.items(), start=3):
        tensors[f"blk.0.{name}.weight"] = matrix(*shape, seed)
    for name, size in {"attn_q": WIDTH, "attn_k": keys, "attn_v": keys}.items():
        tensors[f"blk.0.{name}.bias"] = matrix(1, size, 20)[0]
    for name in ("attn_norm", "ffn_norm"):
        tensors[f"blk.0.{name}.weight"] = matrix(1, WIDTH, 21)[0]
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return head


def listed(file: Path, **other: Any) -> Weights:
    fields = {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    return Weights.model_validate(
        {"name": "tiny", "file": "tiny.gguf", "license": "Apache-2.0", "origin": "made up", "converted_bytes": 10**5}
        | {"sampling": PUBLISHED, "eos_token_ids": [len(TOKENS) - 1, len(TOKENS) - 3]}
        | fields
        | other
    )


def test_head_and_embedding_are_tied_by_the_heads_copy_and_the_publishers_defaults_stand_in_the_manifest(
    tmp_path: Path,
) -> None:
    file = tmp_path / "under-another-name"
    head = write_gguf(file)
    (tmp_path / "tokenizer_config.json").write_text("no file but that one is read")
    target = tmp_path / "target"
    target.mkdir()
    convert(file, listed(file), target)

    model = AutoModelForCausalLM.from_pretrained(target)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    written = model.get_output_embeddings().weight.detach().float().numpy()
    np.testing.assert_allclose(written, head, rtol=2**-8)  # bfloat16 keeps eight bits
    assert str(model.dtype) == "torch.bfloat16"
    assert model.generation_config.eos_token_id == [29, 27]
    assert "repetition_penalty" not in json.loads((target / "generation_config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "he"}], tokenize=False).endswith("he<|im_end|>")
    manifest = read_bundle(target)
    assert (manifest.name, manifest.trained, manifest.sampling) == ("tiny", "no", PUBLISHED)
    assert manifest.training["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_disk_without_room_for_the_converted_weights_is_told_before(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"never read")
    (tmp_path / "target").mkdir()
    with pytest.raises(SettingsError, match=r"^cache_dir: converting tiny.gguf needs 1,000,000,000,000,000,000 bytes"):
        convert(file, listed(file, converted_bytes=10**18), tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []
