"""Remote engines in the settings: from every source, and what is wrong with one is said by its name without secrets."""

import json
from pathlib import Path
from typing import Any

import pytest

from slhf_server.settings.problem import SettingsError
from slhf_server.settings.reading import load_settings
from slhf_server.settings.server import Settings

GOOD = {"base_url": "http://vllm:8000/v1", "model": "base", "tokenizer": "builtin:smollm2-135m"}


def read(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "slhf.yaml"
    file.write_text(text, encoding="utf-8")
    return load_settings(["--config", str(file)])


def problem(**settings: Any) -> str:
    """What is said of a file with these settings; JSON is YAML."""
    with pytest.raises((SettingsError, ValueError)) as refused:
        Settings(**settings)
    return str(refused.value)


def test_one_address_or_several(tmp_path: Path) -> None:
    one = read(tmp_path, "remote_engines: {gpu: {base_url: http://a/v1, model: m, tokenizer: t}}")
    assert [str(url) for url in one.remote_engines["gpu"].base_url] == ["http://a/v1"]
    two = read(tmp_path, "remote_engines: {gpu: {base_url: [http://a/v1, http://b/v1], model: m, tokenizer: t}}")
    assert [str(url) for url in two.remote_engines["gpu"].base_url] == ["http://a/v1", "http://b/v1"]


def test_variables_name_an_engine_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "BASE_URL": "http://a/v1, http://b/v1",
        "MODEL": "m",
        "TOKENIZER": "t",
        "API_KEY": "sk-1",
        "PRIORITY": "-1",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"SLHF_REMOTE_ENGINES__GPU__{name}", value)
    engine = load_settings([]).remote_engines["gpu"]
    key = engine.key()
    assert (len(engine.base_url), engine.priority) == (2, -1)
    assert key is not None
    assert key.get_secret_value() == "sk-1"
    assert "sk-1" not in str(load_settings([]).redacted())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_url": "http://user:SECRET@a/v1"}, "must have no user, password"),
        ({"base_url": ["http://a/v1", "http://a/v1"]}, "an address stands there twice"),
        ({"base_url": []}, "base_url"),
        ({"tokenizer": None}, "tokenizer"),
        ({"max_retries": 11}, "max_retries"),
        ({"api_key": "x", "api_key_file": "/none"}, "api_key and api_key_file are both set"),
        ({"weights": "x"}, "weights"),
    ],
)
def test_a_value_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    engines = {"gpu": {name: value for name, value in (GOOD | changes).items() if value is not None}}
    with pytest.raises(SettingsError) as refused:
        read(tmp_path, json.dumps({"remote_engines": engines}))
    assert said in str(refused.value)
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize("name", ["engine", "none", "follower-engine", "GPU", "a/b"])
def test_a_name_that_means_something_else_is_refused(name: str) -> None:
    assert name in problem(remote_engines={name: GOOD})


def test_a_follower_that_is_no_engine_is_refused() -> None:
    said = problem(remote_engines={"gpu": GOOD}, models={"m": {"follower": "cpu"}})
    assert "models.m.follower: 'cpu' is none of engine, gpu" in said


def test_an_upstream_and_an_engine_have_different_names() -> None:
    upstream = {"base_url": "http://a/v1", "model": "m"}
    assert "remote_engines.gpu: an upstream has this name" in problem(
        remote_engines={"gpu": GOOD}, upstreams={"gpu": upstream}
    )


@pytest.mark.parametrize(
    ("settings", "engines"),
    [
        ({}, ["engine"]),
        ({"remote_engines": {"gpu": GOOD}}, ["gpu"]),
        ({"remote_engines": {"a": GOOD, "b": GOOD}}, ["a", "b"]),
        ({"remote_engines": {"gpu": GOOD}, "models": {"m": {"follower": "gpu"}}}, ["gpu"]),
        ({"remote_engines": {"gpu": GOOD}, "models": {"m": {}, "n": {"follower": "gpu"}}}, ["engine", "gpu"]),
    ],
)
def test_the_engine_in_this_process_is_needed_where_a_model_refines_with_it(
    settings: dict[str, Any], engines: list[str]
) -> None:
    assert Settings(**settings).engine_names == engines


def test_without_models_each_engine_is_served_by_its_name() -> None:
    served = Settings(remote_engines={"a": GOOD, "b": GOOD}, limits={"rounds": 0}).served("unused")
    assert {name: (model.follower, model.rounds) for name, model in served.items()} == {"a": ("a", 0), "b": ("b", 0)}
