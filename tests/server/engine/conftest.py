"""A small tokenizer as a directory, which a remote engine's settings may name."""

from pathlib import Path

import pytest

from slhf_server.engine.prompt import PromptEncoder
from tests.zoo import FAMILIES


@pytest.fixture(scope="session")
def tokenizer_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tiny")
    FAMILIES["SmolLM"].tokenizer().save_pretrained(place)
    (place / "config.json").write_text("{}", encoding="utf-8")
    return place


@pytest.fixture(scope="session")
def encoder(tokenizer_at: Path) -> PromptEncoder:
    return PromptEncoder.open_light(tokenizer_at)
