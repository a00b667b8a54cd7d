"""The client of vLLM servers, beside a server of the standard library that answers as vLLM does."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slhf_training.errors import RolloutError, SettingsError
from slhf_training.models.roles import Roles
from slhf_training.rollout import RolloutSettings
from slhf_training.rollout.server import ServerRollout
from slhf_training.types import Ids, Sample
from tests.training import tiny
from tests.training.judging import Endpoint, Reply, endpoint

PROMPTS: list[Ids] = [(9, 4, 8, 10), (9, 5, 8, 10), (9, 6, 8, 10)]


class VLLM:
    """Says END to everything. `raw`: log-probs do not know of the temperature, as is vLLM's default."""

    def __init__(self, raw: bool = False, status: int = 200) -> None:
        self.raw, self.status = raw, status
        self.adapters: list[str] = []

    def __call__(self, request: Any) -> Reply:
        if request is None:
            cards = [{"id": "base", "parent": None}, *({"id": name, "parent": "base"} for name in self.adapters)]
            return 200, {"data": cards}
        if "lora_path" in request:
            assert (Path(request["lora_path"]) / "adapter_model.safetensors").is_file()
            self.adapters.append(request["lora_name"])
        elif "lora_name" in request:
            self.adapters.remove(request["lora_name"])
        else:
            spread = 1.0 if self.raw else 1 / request["temperature"]
            logprobs = {"token_logprobs": [-0.5], "top_logprobs": [{"token_id:1": -0.5, "token_id:2": -0.5 - spread}]}
            return self.status, {"choices": [{"token_ids": [tiny.END], "logprobs": logprobs, "finish_reason": "stop"}]}
        return self.status, {}


@contextlib.contextmanager
def rollout(directory: Path, *servers: VLLM) -> Iterator[tuple[ServerRollout, Roles, list[Endpoint]]]:
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(endpoint(server)) for server in servers]
        urls = [end.url.removesuffix("/v1") for end in ends]
        chosen = RolloutSettings.model_validate(
            {"engine": "vllm-server", "temperature": 0.7, "servers": {"urls": urls, "adapters": directory}}
        )
        roles = Roles(tiny.model(), merges=False)
        sampler = stack.enter_context(contextlib.closing(ServerRollout(roles, chosen, frozenset([tiny.END]))))
        yield sampler, roles, ends


def test_an_adapter_is_loaded_when_it_has_changed_and_the_one_before_it_unloaded(tmp_path: Path) -> None:
    first, second = VLLM(), VLLM()
    with rollout(tmp_path, first, second) as (sampler, roles, _):
        sampler.sample(PROMPTS, "leader", [0, 1, 2])
        before = list(first.adapters)
        sampler.sample(PROMPTS, "leader", [3, 4, 5])
        assert first.adapters == second.adapters == before
        sampler.sample(PROMPTS, "follower", [3, 4, 5])
        for parameter in roles.trained["leader"]:
            parameter.data += 1
        sampler.sample(PROMPTS, "leader", [0, 1, 2])
        assert first.adapters == second.adapters
        follower, leader = first.adapters
        assert follower.startswith("follower-")
        assert leader.startswith("leader-")
        assert leader != before[0]
        assert {path.name for path in tmp_path.iterdir()} == {leader, follower}


def test_prompts_go_to_the_servers_in_turn_as_ids_and_by_the_roles_model(tmp_path: Path) -> None:
    with rollout(tmp_path, VLLM(), VLLM()) as (sampler, _, ends):
        samples = sampler.sample(PROMPTS, "leader", [1, 2, (1 << 64) - 1])
        sampler.sample(PROMPTS, "reference", [0, 1, 2])
    assert samples == [Sample((tiny.END,), (-0.5,), ended=True)] * 3
    asked = [[r for r in end.asked if r and len(r.get("prompt", ())) == 4] for end in ends]
    by_role = [{(tuple(r["prompt"]), r["model"].partition("-")[0]) for r in of} for of in asked]
    assert by_role[0] == {(p, model) for p in PROMPTS[::2] for model in ("leader", "base")}
    assert by_role[1] == {(PROMPTS[1], "leader"), (PROMPTS[1], "base")}
    for request in asked[0]:
        assert (request["temperature"], request["top_p"], request["top_k"], request["logprobs"]) == (0.7, 1, 0, 0)
        assert 0 <= request["seed"] < 1 << 63


def test_log_probs_before_the_temperature_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--logprobs-mode processed_logprobs"), rollout(tmp_path, VLLM(raw=True)):
        pass


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    servers = {"urls": ["http://127.0.0.1:9"], "adapters": tmp_path}
    chosen = RolloutSettings.model_validate({"engine": "vllm-server", "servers": servers})
    with pytest.raises(SettingsError, match=r"rollout.servers.urls: http://127.0.0.1:9/v1/models: ConnectError"):
        ServerRollout(Roles(tiny.model(), merges=False), chosen, frozenset([tiny.END]))


def test_a_server_that_loads_no_adapters_says_what_it_needs(tmp_path: Path) -> None:
    server = VLLM()
    with rollout(tmp_path, server) as (sampler, _, _):
        server.status = 404
        with pytest.raises(RolloutError, match="load_lora_adapter: HTTP 404 .*VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
            sampler.sample(PROMPTS, "leader", [0, 1, 2])
