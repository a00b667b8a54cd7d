"""Sampling with the real vLLM engine, by a random Llama in float32."""

from pathlib import Path

import pytest
import torch

from slhf_training.roles import ROLES, Roles
from slhf_training.rollout import Ids
from slhf_training.rollout.vllm import VLLMRollout
from slhf_training.scoring import answer_log_probs
from tests.training import tiny

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
PROMPT: Ids = (9, 4, 8, 10)


def test_vllm_samples_by_the_current_weights_of_each_role(tmp_path: Path) -> None:
    tiny.model().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    fit = tiny.settings(
        tmp_path / "run",
        model=str(tmp_path),
        rollout={
            "backend": "vllm",
            "temperature": 0.7,
            "max_new_tokens": 6,
            "engine": {"kv_cache_memory_bytes": 1 << 26, "max_model_len": 64},
        },
    )
    roles = Roles(tiny.model(), "separate", fit.lora)
    rollout = VLLMRollout(roles, fit, frozenset([tiny.END]))
    for update in range(2):
        torch.manual_seed(update)
        for parameters in roles.trained.values():
            for parameter in parameters:
                parameter.data += 0.2 * torch.randn_like(parameter)
        for role in ROLES:
            samples = rollout.sample([PROMPT] * 16, role, range(16))
            with torch.no_grad():
                answers = [s.ids for s in samples]
                learnt = answer_log_probs(roles.use(role), [PROMPT] * 16, answers, 0.7, torch.device("cpu"))
            for row, sample in zip(learnt.tolist(), samples, strict=True):
                assert row[: len(sample.ids)] == pytest.approx(sample.logps, abs=2e-3)
                assert sample.ended == (sample.ids[-1] == tiny.END)
