import json
from pathlib import Path
from typing import Any

import pytest

from slhf import (
    FOLLOWER_TURN,
    Bundle,
    BundleError,
    OwnAnswers,
    RoleWeights,
    StopRules,
    follower_turn,
    read_bundle,
    revision_of,
    write_bundle,
)
from slhf.turns import with_own_answers


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    adapter = tmp_path / "follower"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    return tmp_path


def test_what_is_written_is_what_is_read(directory: Path) -> None:
    bundle = Bundle(name="duo", follower=RoleWeights(adapter="follower"), trained="stackelberg", training={"steps": 3})
    written = write_bundle(directory, bundle)
    assert read_bundle(directory) == written
    assert written.revision == revision_of(directory)
    assert (written.card()["roles"], written.card()["trained"]) == ("separate", "stackelberg")
    assert (written.card()["judge"], written.card()["stop_rules"]) == (None, {})


def test_a_model_without_a_manifest_plays_both_roles(directory: Path) -> None:
    bundle = read_bundle(directory, name="plain")
    assert (bundle.name, bundle.trained, bundle.follower_turn) == ("plain", "unknown", FOLLOWER_TURN)
    assert bundle.card()["roles"] == "shared"
    assert read_bundle(directory).name == directory.name


def test_the_revision_changes_with_the_weights_and_not_with_the_manifest(directory: Path) -> None:
    before = revision_of(directory)
    write_bundle(directory, Bundle(name="duo"))
    assert revision_of(directory) == before
    (directory / "follower" / "adapter_model.safetensors").write_bytes(b"Weights")
    assert revision_of(directory) != before


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        ({"name": "duo", "sampling": {"temperature": 9}}, "sampling.temperature: "),
        ({"name": "duo", "stop_when": ["small_edit"]}, "small_edit needs a threshold in stop_rules"),
        ({"name": "duo", "stop_when": ["tired"]}, "stop_when.0: "),
        ({"name": "duo", "select": "best"}, "select: "),
        ({"name": "duo", "stop_rules": {"small_edit": {"edit_ratio": 2}}}, "stop_rules.small_edit.edit_ratio: "),
        ({"name": "duo", "stop_rules": {"judge_sure": {"p": 0.5}}}, "stop_rules.judge_sure.p: "),
        ({"name": "duo", "own_answers": {"count": 0, "max_tokens": 9, "temperature": 0.5}}, "own_answers.count: "),
        ({"name": "duo", "own_answers": {"count": 4}}, "own_answers.max_tokens: "),
        (
            {"name": "duo", "own_answers": {"count": 4, "max_tokens": 9, "temperature": 1, "only_results": True}},
            "own_answers.only_results: needs keeps_by_silence",
        ),
        (
            {"name": "duo", "own_answers": {"count": 4, "max_tokens": 9, "temperature": 1, "margin": 0}},
            "own_answers.margin: ",
        ),
        (
            {"name": "duo", "own_answers": {"count": 4, "max_tokens": 9, "temperature": 1, "further": -1}},
            "own_answers.further: ",
        ),
        ({"name": "duo", "own_answers": {"count": 4, "max_tokens": 9, "temperature": 0}}, "own_answers.temperature: "),
        ({"name": "duo", "colour": "red"}, "colour: "),
        ({"name": "duo", "format": 2}, "format: "),
        ({}, "name: "),
        ("duo", "file: "),
        ({"name": "duo", "leader": {"adapter": "missing"}}, "leader.adapter: 'missing' holds no peft adapter"),
        ({"name": "duo", "follower": {"adapter": "../x"}}, "follower.adapter: '../x' points outside the bundle"),
    ],
)
def test_a_broken_manifest_is_named_with_its_key(directory: Path, manifest: Any, problem: str) -> None:
    (directory / "slhf.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError) as raised:
        read_bundle(directory)
    assert str(raised.value).startswith(f"{directory / 'slhf.json'}: ")
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        ('{"name": "duo", "evaluation": {"p": NaN}}', "NaN is not JSON"),
        ('{"name": "duo", "sampling": {"temperature": 1e999}}', "too large"),
        ('{"name": "\\ud800"}', "surrogate"),
        ('{"name": ' + "[" * 99_999, "nested too deeply"),
        ("name: duo", "Expecting value"),
    ],
)
def test_a_manifest_that_is_not_json_is_named(directory: Path, manifest: str, problem: str) -> None:
    (directory / "slhf.json").write_text(manifest)
    with pytest.raises(BundleError, match=rf"slhf\.json: file: Invalid JSON: .*{problem}"):
        read_bundle(directory)


def test_a_manifest_may_begin_with_a_byte_order_mark(directory: Path) -> None:
    (directory / "slhf.json").write_text('{"name": "duo"}', encoding="utf-8-sig")
    assert read_bundle(directory).name == "duo"


def test_an_adapter_with_a_broken_configuration_is_named(directory: Path) -> None:
    (directory / "follower" / "adapter_config.json").write_text("{")
    (directory / "slhf.json").write_text('{"name": "duo", "follower": {"adapter": "follower"}}')
    with pytest.raises(BundleError, match="adapter_config.json is not JSON"):
        read_bundle(directory)


def test_a_directory_that_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="neither slhf.json nor"):
        read_bundle(tmp_path)
    with pytest.raises(BundleError, match="no such directory"):
        read_bundle(tmp_path / "missing")


def test_a_wish_follows_the_turn_on_a_line_of_its_own() -> None:
    assert follower_turn() == FOLLOWER_TURN
    assert follower_turn("Improve.", "Be brief.") == "Improve.\nBe brief."


def test_own_answers_stand_behind_the_turn() -> None:
    assert with_own_answers("Improve.", []) == "Improve."
    turn = "Improve.\n\nOther answers to the same request:\n\n[1]\nA\nB\n\n[2]\nC"
    assert with_own_answers("Improve.", ["A\nB", "C"]) == turn


def test_the_card_says_how_many_answers_the_follower_writes_for_itself() -> None:
    assert Bundle(name="duo").card()["own_answers"] == 0
    assert Bundle(name="duo", own_answers=OwnAnswers(count=4, max_tokens=9, temperature=0.5)).card()["own_answers"] == 4


def test_the_card_has_the_thresholds_that_were_measured() -> None:
    assert Bundle(name="duo").card()["stop_rules"] == {}
    rules = StopRules.model_validate({"small_edit": {"edit_ratio": 0.02}})
    bundle = Bundle(name="duo", stop_rules=rules, stop_when=("small_edit",))
    assert bundle.card()["stop_rules"] == {"small_edit": {"edit_ratio": 0.02}}


def test_what_people_read_of_a_bundle_is_no_part_of_its_revision(directory: Path) -> None:
    """A card is corrected after the figures are in, and what was measured is the same bundle."""
    before = revision_of(directory)
    (directory / "README.md").write_text("Figures.")
    assert revision_of(directory) == before
    (directory / "config.json").write_text("{ }")
    assert revision_of(directory) != before
