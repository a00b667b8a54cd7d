"""A random model in the layout of pasztorb/Llama-3.1-Tulu-3-8B-SLHF, the authors' own, whose 16 GB no test fetches:
sharded weights, Llama 3.1's rope, Tulu's template inside of `tokenizer_config.json`, one set of weights for both roles,
and no manifest.
"""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from slhf import FOLLOWER_TURN, Client
from tests.engine.conftest import live_server
from tests.zoo import FAMILIES

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

NAME = "Llama-3.1-Tulu-3-8B-SLHF"
TULU = FAMILIES["Tulu 3"]
QUESTION = "What is 2 + 2?"
BOS, EOS, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<pad>"
FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def write(directory: Path, name: str, content: object) -> None:
    (directory / name).write_text(json.dumps(content, indent=2) + "\n")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tmp_path / NAME
    directory.mkdir()
    backend = TULU.make()
    backend.save(str(directory / "tokenizer.json"))
    named = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    write_tokenizer(directory, named)
    ids = backend.get_vocab()
    special = {"bos_token_id": ids[BOS], "eos_token_id": ids[EOS], "pad_token_id": ids[PAD]}
    words = [number for token, number in ids.items() if not token.startswith("<")]
    write_weights(directory, -(-len(ids) // 8) * 8, words, special)
    write(
        directory, "generation_config.json", {"_from_model_config": True, **special, "transformers_version": "4.43.4"}
    )
    return directory


def write_tokenizer(directory: Path, named: dict[str, str]) -> None:
    shared = {
        "chat_template": TULU.template,
        "clean_up_tokenization_spaces": True,
        "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write(directory, "tokenizer_config.json", named | shared)
    write(directory, "special_tokens_map.json", {kind: {"content": token} for kind, token in named.items()})


def write_weights(directory: Path, vocabulary: int, words: list[int], special: dict[str, int]) -> None:
    """In bfloat16 and several files; the configuration as transformers 4 wrote it. The likeliest token is a word."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "max_position_embeddings": 131072,
        "model_type": "llama",
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": False,
        "vocab_size": vocabulary,
        **special,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**config)).to(torch.bfloat16)
    head = torch.zeros_like(model.lm_head.weight)
    head[words] = model.lm_head.weight[words]
    model.lm_head.weight.data = head
    model.save_pretrained(directory, max_shard_size="100KB")
    write(directory, "config.json", config)


def test_the_authors_checkpoint_is_served_in_both_roles_as_it_lies(checkpoint: Path, tmp_path: Path) -> None:
    names = {path.name for path in checkpoint.iterdir()}
    shards = sorted(names - FILES)
    assert names >= FILES
    assert shards == [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
    assert len(shards) > 1
    with live_server(tmp_path, "--bundle", str(checkpoint)) as server, Client(server.url, timeout=300) as client:
        (model,) = client.models()
        assert (model.id, model.card["roles"], model.card["trained"]) == (NAME, "shared", "unknown")
        result = client.refine(QUESTION, rounds=1, max_tokens=16, temperature=0.0)
        draft, refined = result.refinement.rounds
        assert (draft.role, refined.role) == ("leader", "follower")
        assert draft.text.strip()
        assert refined.text.strip()
        given = client.refine(QUESTION, draft="It is 4.", rounds=1, max_tokens=16)
    words = TULU.tokenizer()
    asked = f"<|user|>\n{QUESTION}\n<|assistant|>\n"
    again = f"{asked}It is 4.{EOS}\n<|user|>\n{FOLLOWER_TURN}\n<|assistant|>\n"
    lengths = [len(words.encode(text, add_special_tokens=False)) for text in (asked, again)]
    assert draft.usage.prompt_tokens == lengths[0]
    assert given.refinement.usage.rounds[0].prompt_tokens == lengths[1]
