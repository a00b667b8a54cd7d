"""Configurations of `fit`: what is shipped parses, and what is wrong is named."""

from pathlib import Path

import pytest

from slhf import FOLLOWER_TURN
from slhf_training.errors import SettingsError
from slhf_training.settings import read_settings

EXAMPLES = Path(__file__).resolve().parents[2] / "training" / "examples"
SERVERS = "rollout: {engine: vllm-server, servers: {urls: ['http://a'], adapters: shared}}"
GOOD = "model: m\noutput_dir: out\ndata: {files: [a.jsonl]}\npreference: {kind: callable}\n"


def test_there_are_examples() -> None:
    assert len(list(EXAMPLES.glob("fit-*.yaml"))) >= 3


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("fit-*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_parses(path: Path) -> None:
    assert read_settings(path).model


def test_defaults_train_as_it_is_served(tmp_path: Path) -> None:
    (tmp_path / "fit.yaml").write_text(GOOD)
    settings = read_settings(tmp_path / "fit.yaml")
    assert settings.follower_turn == FOLLOWER_TURN
    assert (settings.algorithm, settings.game.kl, settings.weights) == ("stackelberg", "to_go", "separate")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gamma: 1", "gamma: Extra inputs"),
        ("game: {tau: 1}", "game.tau: Extra inputs"),
        ("game: {kappa: -1}", "game.kappa: .*greater than 0.*-1"),
        ("algorithm: dpo", "algorithm: .*dpo"),
        ("optimisation: {betas: [0.9]}", "optimisation.betas"),
        ("game: {kl_estimator: k3}", "kl_estimator: 'k3' needs kl: token"),
        ("rollout: {vllm: {max_model_len: 9}}", "rollout: .*vllm: needs engine: vllm, not hf"),
        ("rollout: {engine: vllm, vllm: {dtype: half}}", "rollout: .*vllm.dtype: follows from other settings"),
        ("rollout: {engine: vllm-server}", "rollout: .*servers: engine vllm-server needs them"),
        ("rollout: {servers: {urls: ['http://a'], adapters: x}}", "rollout: .*servers: .*engine is hf"),
        ("rollout: {engine: vllm-server, servers: {urls: [a], adapters: x}}", "rollout.servers.urls.0"),
        ("algorithm: nash-md\nrollout: {engine: vllm}", "rollout.engine: vllm cannot mix two models"),
        (f"weights: full\n{SERVERS}", "rollout.engine: vllm-server takes adapters"),
        ("model: [", "fit.yaml"),
    ],
)
def test_what_is_wrong_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "fit.yaml"
    path.write_text(GOOD + line)
    with pytest.raises(SettingsError, match=message):
        read_settings(path)


def test_servers_find_adapters_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "fit.yaml").write_text(GOOD + SERVERS)
    servers = read_settings(tmp_path / "fit.yaml").rollout.servers
    assert servers is not None and servers.adapters == tmp_path / "shared"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="absent.yaml"):
        read_settings(tmp_path / "absent.yaml")
