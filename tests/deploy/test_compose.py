"""deploy/compose.yaml: read by the real Docker Compose, and by the server where it speaks about settings."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from slhf_server.settings.reading import load_settings
from tests.deploy.programs import DEPLOY, run

GPU = ("-f", "compose.gpu.yaml")


FETCHING = {
    "HF_ENDPOINT": "https://hub.example",
    "HF_HUB_OFFLINE": "0",
    "HF_TOKEN": "hf_1",
    "SLHF_CPU_QUANTIZATION": "none",
    "SLHF_WEIGHTS_MIRRORS": "true",
}
"""How weights are had and held: the same for every server of the host."""


def compose(*arguments: str, **variables: str) -> dict[str, Any]:
    """The configuration as Docker Compose understands it."""
    unwanted = ("SLHF_", "COMPOSE_", "HF_", "BUILTIN")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)} | variables
    command = ("docker-compose", "-f", "compose.yaml", *arguments, "config", "--format", "json")
    done = run(*command, folder=DEPLOY, environ=plain)
    assert done.returncode == 0, done.stderr
    config: dict[str, Any] = json.loads(done.stdout)
    return config


def written() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return config


def test_one_command_starts_server_prometheus_and_grafana() -> None:
    assert set(compose()["services"]) == {"server", "prometheus", "grafana"}


def test_a_profile_adds_a_server_with_an_upstream() -> None:
    services = compose("--profile", "upstream")["services"]
    assert services["with-upstream"]["environment"]["SLHF_UPSTREAMS__DRAFTER__BASE_URL"] == "http://server:8000/v1"


def test_a_profile_adds_a_gateway_whose_engine_is_a_vllm_server(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = compose("--profile", "gateway", VLLM_BASE_URL="http://a/v1,http://b/v1")["services"]["gateway"]
    assert (gateway["image"], gateway["build"]["target"]) == ("slhf-server:0.1.0-gateway", "gateway")
    for name, value in gateway["environment"].items():
        if value is not None:
            monkeypatch.setenv(name, value)
    settings = load_settings([])
    assert settings.engine_names == ["vllm"]
    assert len(settings.remote_engines["vllm"].base_url) == 2


def test_the_gpu_file_gives_the_server_the_gpus_and_keeps_the_rest() -> None:
    plain, gpu = compose()["services"], compose(*GPU)["services"]
    server = gpu["server"]
    assert server["build"]["target"] == "gpu"
    assert server["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    changed = {"build", "deploy", "image", "shm_size"}
    assert {key: value for key, value in server.items() if key not in changed} == {
        key: value for key, value in plain["server"].items() if key not in changed
    }
    assert gpu["grafana"] == plain["grafana"]


@pytest.mark.parametrize("name", ["server", "with-upstream"])
def test_what_fetches_and_holds_weights_is_passed_on_where_it_is_set(name: str) -> None:
    environment = compose("--profile", "upstream", **FETCHING)["services"][name]["environment"]
    assert {variable: environment.get(variable) for variable in FETCHING} == FETCHING


@pytest.mark.parametrize("gpu", [(), GPU])
def test_weights_are_built_into_the_image_where_they_are_asked_for(gpu: tuple[str, ...]) -> None:
    build = compose(*gpu, BUILTIN="qwen2.5-coder-1.5b")["services"]["server"]["build"]
    assert build["args"] == {"BUILTIN": "qwen2.5-coder-1.5b"}


def test_the_images_own_variables_hold_where_nothing_is_set() -> None:
    """A variable that is there and empty would hide the folder of weights that the image names."""
    for service in compose("--profile", "upstream")["services"].values():
        passed = service.get("environment", {})
        assert {name for name in passed if name in FETCHING and passed[name] is not None} == set()
        assert "SLHF_WEIGHTS_DIR" not in passed


def test_every_port_is_open_to_this_host_alone() -> None:
    services = compose("--profile", "upstream")["services"].values()
    assert {port["host_ip"] for service in services for port in service["ports"]} == {"127.0.0.1"}


def test_what_is_mounted_is_there() -> None:
    mounts = [volume.split(":")[0] for service in written()["services"].values() for volume in service["volumes"]]
    missing = [mount for mount in mounts if mount.startswith("./") and not (DEPLOY / mount).exists()]
    assert missing == []


def test_servers_need_no_rights_and_no_writable_root() -> None:
    for name in ("server", "with-upstream"):
        service = written()["services"][name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])


def test_the_upstream_example_is_a_configuration_that_the_server_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLHF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLHF_UPSTREAMS__DRAFTER__BASE_URL", "http://server:8000/v1")
    monkeypatch.setenv("SLHF_UPSTREAMS__DRAFTER__MODEL", "smollm2-135m-slhf")
    settings = load_settings(["--config", str(Path(DEPLOY, "compose", "upstream.yaml"))])
    assert settings.models["assistant"].leader == "drafter"
