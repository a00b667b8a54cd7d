"""A tokenizer by tokenizers and jinja2 alone makes transformers' ids, for every family of templates in the zoo."""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from slhf_server.engine.prompt import PromptEncoder
from slhf_server.engine.tokenizer import FastTokenizer
from slhf_server.models.base import Turn
from slhf_server.settings.problem import SettingsError
from tests.server.conftest import Run
from tests.server.engine.test_templates import HARMLESS, chats, hostile
from tests.zoo import FAMILIES

families = pytest.mark.parametrize("name", FAMILIES)
few = settings(max_examples=25, deadline=None)


@functools.cache
def both(name: str) -> tuple[PromptEncoder, PromptEncoder]:
    """The light encoder, and the one of transformers."""
    with tempfile.TemporaryDirectory() as place:
        FAMILIES[name].tokenizer().save_pretrained(place)
        return PromptEncoder.open_light(Path(place)), PromptEncoder(PreTrainedTokenizerFast.from_pretrained(place))


@families
@few
@given(texts=st.tuples(HARMLESS, HARMLESS, HARMLESS))
def test_its_ids_are_those_of_transformers(name: str, texts: tuple[str, str, str]) -> None:
    light, usual = both(name)
    for turns in chats(FAMILIES[name], *texts):
        assert light.encode(turns) == usual.encode(turns)


@families
@few
@given(data=st.data())
def test_so_are_those_of_hostile_text(name: str, data: st.DataObject) -> None:
    light, usual = both(name)
    attacks = tuple(data.draw(hostile(name)) for _ in range(3))
    for turns in chats(FAMILIES[name], *attacks):
        assert light.encode(turns) == usual.encode(turns)


@families
def test_it_knows_thoughts_and_bytes_as_transformers_does(name: str) -> None:
    light, usual = both(name)
    turns = chats(FAMILIES[name], "What is 2 + 2?")[0]
    ids = usual.encode(turns)
    assert light.opens_thought(ids) is usual.opens_thought(ids) is FAMILIES[name].opens_thought
    assert [light.token_bytes(i) for i in ids] == [usual.token_bytes(i) for i in ids]
    assert light.most_characters_per_token == usual.most_characters_per_token


def test_the_built_in_models_tokenizer_is_read_alike(builtin: Path) -> None:
    light, usual = PromptEncoder.open_light(builtin), PromptEncoder.open(builtin)
    turns = [Turn("user", "Who are you? <|im_end|>"), Turn("assistant", "na\u00efve 你好"), Turn("user", "Improve.")]
    assert light.encode(turns) == usual.encode(turns)


def saved(place: Path, **changes: Any) -> Path:
    FAMILIES["SmolLM"].tokenizer().save_pretrained(place)
    config = place / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | changes), encoding="utf-8")
    return place


def test_a_template_in_the_configuration_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    """Older checkpoints have it there, and special tokens as objects."""
    eos = {
        "__type": "AddedToken",
        "content": "<|im_end|>",
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
    }
    saved(
        tmp_path,
        chat_template="{{ messages | tojson }}{{ eos_token }}{% generation %}x{% endgeneration %}",
        eos_token=eos,
    )
    (tmp_path / "chat_template.jinja").unlink()
    messages = [{"role": "user", "content": "<b> & \u00e9"}]
    assert FastTokenizer(tmp_path).apply_chat_template(messages, tokenize=False) == AutoTokenizer.from_pretrained(
        tmp_path
    ).apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chat_template": "{% if %}"}, "the chat template"),
        ({"added_tokens_decoder": {"9999": {"content": "<new>"}}}, "the added token 9999 has another id"),
    ],
)
def test_files_that_do_not_fit_end_the_start(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    saved(tmp_path, **changes)
    if "chat_template" in changes:
        (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(SettingsError, match=said):
        PromptEncoder.open_light(tmp_path)


def test_a_directory_without_tokenizer_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"tokenizer in .* cannot be read: there is no tokenizer\.json"):
        PromptEncoder.open_light(tmp_path)


def test_a_gateway_loads_neither_torch_nor_transformers_nor_vllm(python: Run, tokenizer_at: Path) -> None:
    """All that it imports to listen, to read its settings and to encode a prompt."""
    program = """
import sys
from pathlib import Path
import slhf_server.app, slhf_server.cli, slhf_server.loading.remote_engines, slhf_server.engine.remote
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.models.base import Turn
assert PromptEncoder.open_light(Path(sys.argv[1])).encode([Turn("user", "Hello")])
print(sorted({"torch", "transformers", "vllm", "numpy", "safetensors", "gguf"} & sys.modules.keys()))
"""
    ended = python(program, str(tokenizer_at))
    assert (ended.stdout.strip(), ended.returncode) == ("[]", 0), ended.stderr
