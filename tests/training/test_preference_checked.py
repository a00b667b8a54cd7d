"""A program's verdict as a preference, and what decides where it says the same of both."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from slhf_training.checks.registry import CheckSettings, check_of
from slhf_training.distill.learning import Candidates, DraftedChat, choose
from slhf_training.errors import SettingsError
from slhf_training.evaluation.answers import Answer
from slhf_training.preference import Preference, PreferenceSettings, Verifying, preference_of
from slhf_training.preference.checked import TIES, CheckedPreference, Tie
from slhf_training.types import Chat, chat_key
from tests.training import tiny


def ask(text: str) -> Chat:
    return [{"role": "user", "content": text}]


SUM, OTHER = ask("2 + 2?"), ask("Why?")
RIGHT, LONG, WRONG = "4", "It is, all in all, 4", "It is 5"


def source(directory: Path, **settings: Any) -> Preference:
    file = directory / "rows.jsonl"
    row = {"prompt": "2 + 2?", "check": {"kind": "number", "answer": "4"}}
    file.write_text("".join(json.dumps(each) + "\n" for each in (row, {"prompt": "No check?"})))
    return described({"kind": "checked", "data": [{"files": [str(file)]}], **settings})


def described(settings: dict[str, Any]) -> Preference:
    return preference_of(TypeAdapter[Any](PreferenceSettings).validate_python(settings))


@pytest.mark.parametrize(
    ("tie", "both_right", "both_wrong"),
    [("half", 0.5, 0.5), ("shorter", 1.0, 0.0), ("abstain", np.nan, np.nan)],
)
def test_what_passes_wins_and_a_tie_is_decided_as_was_chosen(
    tie: Tie, both_right: float, both_wrong: float, tmp_path: Path
) -> None:
    pairs = [(RIGHT, WRONG), (WRONG, RIGHT), (WRONG, LONG), (RIGHT, LONG), (WRONG, "3"), (RIGHT, RIGHT)]
    first, second = zip(*pairs, strict=True)
    p = source(tmp_path, tie=tie)([SUM] * len(pairs), first, second)
    same = np.nan if tie == "abstain" else 0.5
    assert p == pytest.approx([1, 0, 0, both_right, both_wrong, same], nan_ok=True)


def test_which_answers_are_right_is_known_where_there_is_a_check(tmp_path: Path) -> None:
    checked = source(tmp_path)
    assert isinstance(checked, Verifying)
    assert checked.right([SUM, SUM, OTHER], [RIGHT, WRONG, RIGHT]) == pytest.approx([1, 0, np.nan], nan_ok=True)


def test_another_source_decides_a_tie_and_is_asked_of_nothing_else(tmp_path: Path) -> None:
    tie = {"kind": "callable", "function": f"{__name__}:with_all"}
    p = source(tmp_path, tie=tie)([SUM, SUM, OTHER], [RIGHT, LONG, LONG], [WRONG, RIGHT, RIGHT])
    assert p == pytest.approx([1, 0.75, np.nan], nan_ok=True)


def with_all(chats: Any, first: Any, second: Any) -> Any:
    assert [*zip(first, second, strict=True)] == [(LONG, RIGHT)]
    return np.array([0.75])


def test_a_chat_without_a_check_is_left_to_others(tmp_path: Path) -> None:
    assert np.isnan(source(tmp_path)([OTHER, ask("No check?")], [RIGHT] * 2, [WRONG] * 2)).all()
    assert np.isnan(source(tmp_path)([[*SUM, *OTHER]], [RIGHT], [WRONG])).all()
    voters = {"kind": "callable", "function": f"{__name__}:first_always"}
    mixed = {
        "kind": "mixture",
        "sources": [
            {"preference": {"kind": "checked", "data": [{"files": [str(tmp_path / "rows.jsonl")]}], "tie": "abstain"}},
            {"preference": voters},
        ],
    }
    assert described(mixed)([SUM, OTHER], [WRONG, WRONG], [RIGHT, RIGHT]) == pytest.approx([0.5, 1])


def first_always(chats: Any, first: Any, second: Any) -> Any:
    return np.ones(len(first))


ANSWERS = st.sampled_from(["4", "5", "It is 4", "four", "", "4 or 5", "**4**"])


@given(
    st.lists(st.tuples(st.sampled_from([SUM, OTHER]), ANSWERS, ANSWERS), max_size=8),
    st.sampled_from([*TIES]),
)
def test_swapping_the_answers_gives_one_minus_the_value(pairs: list[tuple[Chat, str, str]], tie: Tie) -> None:
    four = TypeAdapter[Any](CheckSettings).validate_python({"kind": "number", "answer": "4"})
    checked = CheckedPreference({chat_key(SUM): check_of(four)}, TIES[tie])
    chats, first, second = [one for one, _, _ in pairs], [one for _, one, _ in pairs], [one for _, _, one in pairs]
    p = checked(chats, first, second)
    assert p.shape == (len(pairs),)
    assert p == pytest.approx(1 - checked(chats, second, first), nan_ok=True)
    assert all(np.isnan(value) or 0 <= value <= 1 for value in p)


def test_data_without_a_check_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "p", "reference": "r"}\n')
    with pytest.raises(SettingsError, match="data: no row has a check"):
        described({"kind": "checked", "data": [{"files": [str(file)]}]})


@pytest.mark.parametrize("changes", [{"tie": "longer"}, {"tie": {"kind": "guess"}}, {"data": []}, {"loose": True}])
def test_a_bad_setting_is_named(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=rf"(?m)^checked\.{next(iter(changes))}\b"):
        source(tmp_path, **changes)


def test_it_chooses_the_refinement_that_passes_and_of_several_the_nearest(tmp_path: Path) -> None:
    """As `distill` does: `best_of` with `edit_cost`, which lets nothing that fails win."""
    refined = tuple(map(Answer, ("2 + 2 is 5", "So I say with all my heart 4", "2 + 2 is 4", "5")))
    group = Candidates(DraftedChat(SUM, Answer("2 + 2 is 5")), refined)
    assert choose([group], source(tmp_path)) == [1]
    assert choose([group], source(tmp_path), edit_cost=0.5) == [2]
    assert choose([group], source(tmp_path, tie="shorter")) == [2]
    other = Candidates(DraftedChat(OTHER, Answer("5")), refined)
    assert choose([other], source(tmp_path)) == [None]


def test_a_game_is_played_by_it(tmp_path: Path) -> None:
    """Two steps of `fit`; where nothing can be checked the judge abstains, and that is counted."""
    row = {"prompt": "which", "check": {"kind": "accepted", "answers": ["B"]}}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    preference = {"kind": "checked", "data": [{"files": [str(file)]}]}
    chats = [tiny.CHAT, ask("say")] * 8
    trainer = tiny.trainer(tiny.settings(tmp_path / "run"), described(preference), chats)
    trainer.train()
    said = [entry for entry in trainer.state.log_history if "judge/abstained" in entry]
    assert len(said) == 2
    assert all(entry["judge/abstained"] > 0 for entry in said)
    assert all(np.isfinite(entry["follower/reward"]) for entry in said)
