"""`slhf-train evaluate` with the real engine and the built-in model: both roles, rounds, drafts, and a second run."""

import json
from pathlib import Path
from typing import Any

import pytest

from slhf_training.evaluation.run import ANSWERS, evaluate
from slhf_training.evaluation.settings import EvaluateSettings
from tests.training.evaluation.fakes import Longer, configuration

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


def test_the_engine_writes_what_the_report_needs(builtin: Path, tmp_path: Path) -> None:
    drafts = tmp_path / "drafts.jsonl"
    drafts.write_text(json.dumps({"prompt": "Name a tree.", "output": "Oak.", "model": "gpt"}) + "\n")
    how: dict[str, Any] = configuration(
        tmp_path,
        models={"smol": {"bundle": "builtin:smollm2-135m"}, "gpt": {"drafts": str(drafts)}},
        generation={"max_new_tokens": 24, "engine": {"max_model_len": 1024, "kv_cache_memory_bytes": 1 << 29}},
        round_robin={"players": ["smol", "smol > smol", "gpt > smol"]},
        rounds={"leaders": ["smol"], "followers": ["smol"], "rounds": 2},
    )
    settings = EvaluateSettings.model_validate(how)
    report = evaluate(settings, judge=Longer().of)
    lines = [json.loads(line) for line in (tmp_path / "out" / ANSWERS).read_text(encoding="utf-8").splitlines()]
    assert {(line["draft_of"], line["round"]) for line in lines} == {
        ("", 0),
        ("smol", 1),
        ("smol > smol", 2),
        ("gpt", 1),
    }
    assert len(lines) == 3 * 3 + 1  # three rounds of three prompts, and the one draft that was given
    assert all(line["text"].strip() for line in lines)
    assert report["sections"]["round_robin"]["players"]["smol"]["refused"] == 0
    again = evaluate(settings, opened=_nobody, judge=Longer().of)
    assert again["sections"] == report["sections"]


def _nobody(*model: Any) -> Any:
    raise AssertionError("all answers were there")
