"""What benchmarks/int8.py reads and prints; the engines are not started."""

import gzip
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.divergence import head_of
from benchmarks.int8 import AT_ONCE, read, table

FIGURES: dict[str, Any] = {
    "date": "2026-11-28",
    "machine": "x86_64",
    "bundle": "b",
    "rows": [
        {"at_once": at_once, "repeat": repeat, "bfloat16": 10.0 * at_once, "int8": (30.0 + repeat) * at_once}
        for at_once in AT_ONCE
        for repeat in range(3)
    ],
    "follower": {
        "with speculation": {"bfloat16": [10.0, 20.0, 30.0], "int8": [40.0, 60.0, 60.0]},
        "without": {"bfloat16": [5.0, 5.0, 5.0], "int8": [10.0, 10.0, 20.0]},
    },
    "start_s": {"bfloat16": 30.0, "int8": 25.0},
    "resident_gb": {"bfloat16": 7.0, "int8": 5.0},
    "kl": {"answers": 2, "tokens": 90, "dtype": "float32", "mean": 0.0123, "p50": 0.001, "p90": 0.02, "p99": 0.3},
}


def test_the_ratio_is_the_median_of_the_repeats_ratios() -> None:
    lines = table(FIGURES).splitlines()
    assert "| Leader, 16 at once | 496.0 | 160.0 | 3.10 | >= 3 |" in lines
    assert "| Follower alone, with speculation | 60.0 | 20.0 | 3.00 | >= 3 |" in lines
    assert "| warm start, s | 25.0 | 30.0 | <= 40 |" in lines
    assert "in float32, over 90 tokens" in lines[-1]
    assert "mean 0.0123 nats" in lines[-1]


def test_prompts_are_texts_or_the_first_users_message(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"prompt": "one"},
        {"instruction": "two"},
        {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "three"}]},
        {"prompt": "four"},
    ]
    file = tmp_path / "prompts.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert read(file, 3) == ["one", "two", "three"]


def test_the_head_is_the_models_own_or_its_embedding(tmp_path: Path) -> None:
    embedding, head = torch.ones(3, 2), torch.zeros(3, 2)
    save_file({"model.embed_tokens.weight": embedding}, tmp_path / "model.safetensors")
    assert head_of(tmp_path).equal(embedding)
    save_file({"model.embed_tokens.weight": embedding, "lm_head.weight": head}, tmp_path / "model.safetensors")
    assert head_of(tmp_path).equal(head)
