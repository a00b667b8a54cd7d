"""Starting and ending the real server: adapters, signals, settings that cannot work."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from slhf import Bundle, Client, RoleWeights, SamplingDefaults, write_bundle
from tests.engine.conftest import SMALL, LiveServer, live_server

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


def write_adapter(directory: Path, base: Path, seed: int) -> None:
    """A LoRA adapter in peft's format that changes what the base says: rank 4 on every value projection."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    with safe_open(base / "model.safetensors", "pt") as weights:
        for name in weights.keys():
            if name.endswith("v_proj.weight"):
                out_size, in_size = weights.get_slice(name).get_shape()
                stem = f"base_model.model.{name.removesuffix('.weight')}"
                tensors[f"{stem}.lora_A.weight"] = torch.randn(4, in_size, generator=generator) * 0.3
                tensors[f"{stem}.lora_B.weight"] = torch.randn(out_size, 4, generator=generator) * 0.3
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["v_proj"], "task_type": "CAUSAL_LM"}
    (directory / "adapter_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def two_adapters(builtin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with separate roles on the built-in base."""
    bundle = tmp_path_factory.mktemp("bundles") / "separate"
    bundle.mkdir()
    for seed, role in enumerate(("leader", "follower")):
        write_adapter(bundle / role, builtin, seed)
    roles = {role: RoleWeights(adapter=role) for role in ("leader", "follower")}
    write_bundle(
        bundle, Bundle(name="separate", base_model=str(builtin), sampling=SamplingDefaults(temperature=0), **roles)
    )
    return bundle


def test_two_adapters_on_one_base_are_chosen_per_round_and_sigterm_ends_all(
    two_adapters: Path, live: LiveServer, tmp_path: Path
) -> None:
    question = "Why is the sky blue?"
    with (
        live_server(tmp_path, "--bundle", str(two_adapters), "--grace-period-s", "4") as server,
        contextlib.ExitStack() as stack,
    ):
        adapted = stack.enter_context(Client(server.url, timeout=300))
        plain = stack.enter_context(Client(live.url, timeout=300))
        card = adapted.models()[0].card
        assert (card["roles"], card["trained"]) == ("separate", "unknown")
        draft = adapted.refine(question, rounds=0, max_tokens=24)
        assert draft.output != plain.refine(question, rounds=0, max_tokens=24, temperature=0.0).output
        ours = adapted.refine(question, draft="Because.", rounds=1, max_tokens=24)
        assert ours.output != plain.refine(question, draft="Because.", rounds=1, max_tokens=24, temperature=0.0).output
        sigterm_lets_the_best_finished_text_out_and_leaves_no_process(server)


def sigterm_lets_the_best_finished_text_out_and_leaves_no_process(server: LiveServer) -> None:
    family = server.processes()
    assert len(family) >= 2  # the server and the engine core, at least
    answers: list[httpx2.Response] = []
    body = {"prompt": "Tell a long story.", "draft": "Once upon a time.", "rounds": 8}

    def refine() -> None:
        answers.append(httpx2.post(f"{server.url}/v1/refine", json=body, timeout=60))

    asking = threading.Thread(target=refine)
    asking.start()
    for _ in range(200):
        if server.metric("vllm:num_requests_running") == 1:
            break
    server.process.send_signal(signal.SIGTERM)
    asking.join(30)
    assert server.process.wait(30) in (0, -signal.SIGTERM)
    result: dict[str, Any] = answers[0].json()
    assert answers[0].status_code == 200
    assert result["refinement"]["stop_reason"] in ("deadline", "rounds_done")
    assert result["output"] == result["refinement"]["rounds"][-1]["text"]
    await_end(family)


def await_end(family: set[int], seconds: float = 10.0) -> None:
    """Python's resource tracker ends by itself when its parent's pipe closes, thus a moment after its parent."""
    give_up = time.monotonic() + seconds
    while alive := {pid for pid in family if is_alive(pid)}:
        assert time.monotonic() < give_up, {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in alive}


def is_alive(pid: int) -> bool:
    """A zombie that waits for its reaper is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def start(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("slhf-server")), "--port", "0", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | SMALL | environment)


def test_an_engine_argument_that_vllm_refuses_ends_the_start_and_is_named() -> None:
    for value, named in (({"nonsense": 1}, "nonsense"), ({"max_model_len": -5}, "max_model_len")):
        ended = start("--engine", json.dumps(value))
        assert ended.returncode == 1
        assert named in ended.stderr.splitlines()[-1] or named in ended.stderr, ended.stderr
        assert "slhf-server: engine:" in ended.stderr
