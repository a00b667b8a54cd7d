"""Where a bundle comes from, and what is said of one that cannot be opened."""

import json
from pathlib import Path
from typing import Any

import pytest

from slhf import FOLLOWER_TURN, Bundle, RoleWeights, revision_of, write_bundle
from slhf_server.loading.opening import open_bundle
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import Settings
from tests.server.conftest import Run
from tests.zoo import FAMILIES

OPEN = """
import json, sys
from slhf_server.loading.opening import open_bundle
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import Settings
try:
    found = open_bundle(Settings(bundle=sys.argv[1]))
except SettingsError as exc:
    sys.exit(str(exc))
print(json.dumps([str(found.directory), str(found.weights), found.manifest.model_dump()]))
"""
"""In a process of its own: huggingface_hub reads its environment when it is imported."""


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A Hugging Face model as far as a bundle looks into it."""
    directory = tmp_path / "plain"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama"}')
    (directory / "model.safetensors").write_bytes(b"weights")
    return directory


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A Hugging Face cache that holds owner/small, and nothing else."""
    repository = tmp_path / "hub" / "models--owner--small"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "llama"}')
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return tmp_path / "hub"


@pytest.fixture
def adapter(plain: Path) -> str:
    """A LoRA adapter in the plain model's directory."""
    (plain / "tuned").mkdir()
    (plain / "tuned" / "adapter_config.json").write_text('{"r": 4}')
    (plain / "tuned" / "adapter_model.safetensors").write_bytes(b"adapter")
    return "tuned"


def test_a_directory_with_a_manifest_is_opened(plain: Path, adapter: str) -> None:
    manifest = write_bundle(
        plain, Bundle(name="duo", trained="stackelberg", follower=RoleWeights(adapter=adapter), follower_turn="Again.")
    )
    found = open_bundle(Settings(bundle=str(plain)))
    assert found.manifest == manifest
    assert (found.directory, found.weights.resolve()) == (plain, plain.resolve())
    assert (found.adapter("leader"), found.adapter("follower")) == (None, plain / "tuned")


def test_a_plain_model_plays_both_roles_with_the_papers_turn(plain: Path) -> None:
    found = open_bundle(Settings(bundle=str(plain)))
    assert found.manifest == Bundle(name="plain", trained="unknown", revision=revision_of(plain))
    assert found.manifest.follower_turn == FOLLOWER_TURN
    assert found.manifest.card()["roles"] == "shared"
    assert (found.adapter("leader"), found.adapter("follower")) == (None, None)


def test_a_base_model_beside_the_bundle_is_found(plain: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for base in ("../plain", str(plain)):
        write_bundle(bundle, Bundle(name="duo", base_model=base))
        assert open_bundle(Settings(bundle=str(bundle))).weights.resolve() == plain.resolve()


def test_a_relative_directory_is_no_hub_id(plain: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path.parent)
    assert open_bundle(Settings(bundle=f"{tmp_path.name}/plain")).manifest.name == "plain"


def test_an_unknown_builtin_is_refused_with_what_there_is() -> None:
    known = "builtin:qwen2.5-coder-1.5b-slhf, builtin:smollm2-135m-slhf, "
    with pytest.raises(SettingsError, match=f"^bundle: 'builtin:gpt-9' is not built in; there are {known}"):
        open_bundle(Settings(bundle="builtin:gpt-9"))


def test_a_folder_is_found_in_the_users_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match="neither slhf.json nor"):
        open_bundle(Settings(bundle="~/empty"))


@pytest.mark.parametrize("bundle", ["/no/such/directory", "./missing", "../missing", "~/missing", "missing", "a/b/c"])
def test_a_path_that_does_not_exist_is_named_without_asking_the_hub(bundle: str) -> None:
    with pytest.raises(SettingsError) as refused:
        open_bundle(Settings(bundle=bundle))
    assert str(refused.value) == f"bundle: {bundle!r} is no directory, and no hub id (owner/name) either"


def test_an_empty_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="neither slhf.json nor a Hugging Face config.json") as refused:
        open_bundle(Settings(bundle=str(tmp_path)))
    assert str(refused.value).startswith(f"bundle {str(tmp_path)!r}: ")


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        ('{"name": "duo", "sampling": {"temperature": 9}}', "sampling.temperature: "),
        ('{"name": "duo", "colour": "red"}', "colour: "),
        ("{}", "name: "),
        ('{"name": ', "file: Invalid JSON"),
        ('{"name": "duo", "leader": {"adapter": "missing"}}', "leader.adapter: 'missing' holds no peft adapter"),
        ('{"name": "duo", "follower": {"adapter": ".."}}', "follower.adapter: '..' points outside the bundle"),
        ('{"name": "duo", "follower": {"adapter": "/"}}', "follower.adapter: '/' points outside the bundle"),
    ],
)
def test_a_broken_manifest_is_refused_with_file_and_key(plain: Path, manifest: str, problem: str) -> None:
    (plain / "slhf.json").write_text(manifest)
    with pytest.raises(SettingsError) as refused:
        open_bundle(Settings(bundle=str(plain)))
    assert str(refused.value).startswith(f"bundle {str(plain)!r}: {plain / 'slhf.json'}: {problem}")


def test_a_base_model_that_is_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    write_bundle(tmp_path, Bundle(name="duo", base_model="base"))
    with pytest.raises(SettingsError, match=r"base_model 'base' holds no model \(no config.json\)"):
        open_bundle(Settings(bundle=str(tmp_path)))


@pytest.mark.parametrize("base", ["base", "../base", "owner/base"])
def test_a_base_model_that_is_missing_is_named(python: Run, tmp_path: Path, hub: Path, base: str) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    write_bundle(bundle, Bundle(name="duo", base_model=base))
    ended = python(OPEN, str(bundle), HF_HUB_CACHE=str(hub), HF_HUB_OFFLINE="1")
    assert ended.returncode == 1
    assert f"{base!r} is no directory here, and the hub did not give it: " in ended.stderr
    assert "Traceback" not in ended.stderr


def opened(python: Run, bundle: str, **environment: str) -> tuple[Path, Path, dict[str, Any]]:
    ended = python(OPEN, bundle, HF_HUB_OFFLINE="1", **environment)
    assert ended.returncode == 0, ended.stderr
    directory, weights, manifest = json.loads(ended.stdout)
    return Path(directory), Path(weights), manifest


def test_a_hub_id_is_opened_from_the_cache_without_network(python: Run, hub: Path, tmp_path: Path) -> None:
    for environment in ({"HF_HUB_CACHE": str(hub)}, {"HF_HOME": str(tmp_path)}):
        directory, weights, manifest = opened(python, "owner/small", **environment)
        assert directory.parent == hub / "models--owner--small" / "snapshots"
        assert weights == directory
        assert (manifest["name"], manifest["trained"]) == ("small", "unknown")
        assert manifest["revision"] == revision_of(directory)


def test_a_bundles_base_model_may_be_a_hub_id(python: Run, hub: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    write_bundle(bundle, Bundle(name="duo", base_model="owner/small"))
    directory, weights, manifest = opened(python, str(bundle), HF_HUB_CACHE=str(hub))
    assert (directory, manifest["name"]) == (bundle, "duo")
    assert weights.parent == hub / "models--owner--small" / "snapshots"


@pytest.mark.parametrize("bundle", ["owner/other", "owner/in valid"])
def test_a_hub_id_that_is_not_there_is_refused(python: Run, hub: Path, bundle: str) -> None:
    ended = python(OPEN, bundle, HF_HUB_CACHE=str(hub), HF_HUB_OFFLINE="1")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"bundle: {bundle!r} is no directory here, and the hub did not give it: ")


LOAD = """
import asyncio, sys
from slhf_server.settings.problem import SettingsError
from slhf_server.loading.start import open_vllm
from slhf_server.settings.server import Settings
try:
    asyncio.run(open_vllm(Settings(bundle=sys.argv[1])))
except SettingsError as exc:
    sys.exit(f"{exc}; vllm imported: {'vllm' in sys.modules}")
"""


def test_a_chat_template_that_cannot_be_used_ends_the_start_before_the_engine_is_there(
    python: Run, plain: Path
) -> None:
    """The bundle's weights are no weights: nobody came to read them."""
    tokenizer = FAMILIES["Command R"].tokenizer()
    tokenizer.chat_template = {"rag": "rag", "tool_use": "tools"}
    tokenizer.save_pretrained(plain)
    assert (plain / "additional_chat_templates" / "rag.jinja").exists()
    ended = python(LOAD, str(plain))
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "bundle: the tokenizer has several chat templates and none is named default: rag, tool_use; "
        "vllm imported: False"
    )
