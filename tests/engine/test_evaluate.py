"""`slhf-train evaluate` with the real engine and the built-in model: both roles, rounds, drafts, and a second run."""

import gc
import json
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from slhf_training.evaluation import evaluate_settings
from slhf_training.evaluation.run import ANSWERS, evaluate
from tests.training.evaluation.fakes import Longer, configuration

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
OPENED_AND_ENDED = """
import asyncio
from slhf_server.loading.start import open_vllm
from slhf_server.settings.server import Settings

async def once():
    engine = {"max_model_len": 1024, "kv_cache_memory_bytes": 1 << 29}
    (await open_vllm(Settings(bundle="builtin:smollm2-135m", engine=engine))).shutdown()

if __name__ == "__main__":
    asyncio.run(once())
"""


def test_the_engine_writes_what_the_report_needs(builtin: Path, tmp_path: Path) -> None:
    drafts = tmp_path / "drafts.jsonl"
    drafts.write_text(json.dumps({"prompt": "Name a tree.", "output": "Oak.", "model": "gpt"}) + "\n")
    how: dict[str, Any] = configuration(
        tmp_path,
        models={
            "smol": {"bundle": "builtin:smollm2-135m"},
            "other": {"bundle": "builtin:smollm2-135m"},
            "gpt": {"drafts": str(drafts)},
        },
        generation={"max_new_tokens": 24, "engine": {"max_model_len": 1024, "kv_cache_memory_bytes": 1 << 29}},
        round_robin={"players": ["smol", "smol > smol", "gpt > smol", "smol > other"]},
        rounds={"leaders": ["smol"], "followers": ["smol"], "rounds": 2},
    )
    settings = evaluate_settings().model_validate(how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # vLLM leaves zmq contexts behind
        report = evaluate(settings, judge=Longer().of)
        gc.collect()
    lines = [json.loads(line) for line in (tmp_path / "out" / ANSWERS).read_text(encoding="utf-8").splitlines()]
    assert Counter((line["model"], line["draft_of"], line["round"]) for line in lines) == {
        ("smol", "", 0): 3,
        ("smol", "smol", 1): 3,
        ("smol", "smol > smol", 2): 3,
        ("smol", "gpt", 1): 1,  # the one draft that was given
        ("other", "smol", 1): 3,  # a second engine, after the first one has ended
    }
    assert all(line["text"].strip() for line in lines)
    assert report["sections"]["round_robin"]["players"]["smol"]["refused"] == 0
    again = evaluate(settings, opened=_nobody, judge=Longer().of)
    assert again["sections"] == report["sections"]


def test_a_process_that_has_ended_its_engine_ends_without_a_word(builtin: Path, tmp_path: Path) -> None:
    """It did not, where something held the engine until vLLM's finaliser could run no more."""
    script = tmp_path / "script.py"
    script.write_text(OPENED_AND_ENDED)
    done = subprocess.run([sys.executable, script], timeout=300, capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr, done.stderr


def _nobody(*model: Any) -> Any:
    raise AssertionError("all answers were there")
