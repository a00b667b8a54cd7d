"""Judges in the settings: who they are, who names them, and what is wrong with one is said by its name."""

from typing import Any

import pytest

from slhf_server.settings.judging import OwnAnswersSettings
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.reading import load_settings
from slhf_server.settings.server import Settings

CLOUD = {"cloud": {"base_url": "http://a/v1", "model": "m"}}
GPU = {"gpu": {"base_url": "http://b/v1", "model": "m", "tokenizer": "t"}}
INF = float("inf")
HOUSE = {"house": {"upstream": "cloud"}}


def problem(**settings: Any) -> str:
    with pytest.raises((SettingsError, ValueError)) as refused:
        Settings(**settings)
    return str(refused.value)


def test_a_judge_is_an_upstream_the_own_engine_its_answers_or_a_reward_model() -> None:
    own: dict[str, Any] = {"own": {"engine": "own"}, "votes": {"own_answers": {"count": 4}}}
    judges = {**HOUSE, **own, "rm": {"reward": {"base_url": "http://c/score"}}}
    settings = Settings(upstreams=CLOUD, judges=judges)
    assert {name: judge.kind for name, judge in settings.judges.items()} == {
        "house": "upstream",
        "own": "engine",
        "votes": "own_answers",
        "rm": "reward",
    }
    assert (settings.judges["house"].margin, settings.judges["house"].sure) == (0.6, 0.9)


def test_variables_name_a_judge_and_its_key_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLHF_JUDGES__RM__REWARD__BASE_URL", "http://c/score")
    monkeypatch.setenv("SLHF_JUDGES__RM__REWARD__API_KEY", "sk-SECRET")
    monkeypatch.setenv("SLHF_JUDGES__RM__MARGIN", "0.7")
    monkeypatch.setenv("SLHF_MODELS__ASSISTANT__JUDGE", "rm")
    monkeypatch.setenv("SLHF_MODELS__ASSISTANT__STOP_WHEN", '["unchanged", "no_gain"]')
    settings = load_settings([])
    assert settings.judges["rm"].margin == 0.7
    assert settings.judges["rm"].reward is not None
    assert settings.models["assistant"].stop_when == ("unchanged", "no_gain")
    assert "SECRET" not in str(settings.redacted())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"judges": {"house": {}}}, "exactly one of upstream, engine, own_answers and reward"),
        ({"judges": {"house": {"upstream": "cloud", "engine": "own"}}, "upstreams": CLOUD}, "exactly one of"),
        ({"judges": HOUSE}, "judges.house.upstream: 'cloud' is no upstream; there is none"),
        ({"judges": {"house": {"engine": "other"}}}, "judges.house.engine"),
        ({"judges": {"House": {"engine": "own"}}}, "a judge's name has lower-case letters"),
        ({"judges": {"own": {"engine": "own"}}, "remote_engines": GPU}, "judges.own.engine: no served model"),
        ({"judges": {"house": {"engine": "own", "own_answers": {}}}}, "exactly one of"),
        ({"judges": {"own": {"own_answers": {}}}, "remote_engines": GPU}, "judges.own.own_answers: no served model"),
        ({"judges": {"own": {"own_answers": {"count": 1}}}}, "own_answers.count"),
        ({"judges": {"own": {"own_answers": {"temperature": 0}}}}, "own_answers.temperature"),
        ({"judges": {"own": {"own_answers": {"max_tokens": 0}}}}, "own_answers.max_tokens"),
        ({"judges": {"own": {"own_answers": {"seed": 1}}}}, "seed"),
        (
            {"judges": {"cloud": {"reward": {"base_url": "http://c"}}}, "upstreams": CLOUD},
            "judges.cloud: an upstream or a remote engine has this name, too",
        ),
        ({"judges": {"own": {"engine": "own", "margin": 0.5}}}, "margin"),
        ({"judges": {"own": {"engine": "own", "sure": 1.1}}}, "sure"),
        ({"judges": {"rm": {"reward": {"base_url": "http://u:SECRET@c"}}}}, "must have no user"),
        ({"models": {"a": {"judge": "house"}}}, "models.a.judge: 'house' is no judge; there is none"),
        ({"models": {"a": {"select": "judge"}}}, "models.a.select: 'judge' needs the key 'judge'"),
        ({"models": {"a": {"stop_when": ["no_gain"]}}}, "models.a.stop_when: 'no_gain' needs the key 'judge'"),
        ({"models": {"a": {"stop_when": ["tired"]}}}, "stop_when"),
        ({"judges": {"own": {"engine": "own"}}, "models": {"a": {"shadow": {"judge": "own", "days": INF}}}}, "days"),
    ],
)
def test_what_cannot_work_is_named(settings: dict[str, Any], said: str) -> None:
    assert said in problem(**settings)


def test_own_answers_are_eight_and_variables_say_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLHF_JUDGES__VOTES__OWN_ANSWERS__COUNT", "16")
    votes = load_settings([]).judges["votes"].own_answers
    assert votes is not None
    assert (votes.count, votes.temperature, votes.max_tokens) == (16, 0.5, 384)
    assert OwnAnswersSettings().count == 8


def test_no_secret_of_a_reward_model_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLHF_JUDGES__RM__REWARD__BASE_URL", "http://user:SECRET@c")
    with pytest.raises(SettingsError) as refused:
        load_settings([])
    assert "SECRET" not in str(refused.value)
    assert "judges.rm.reward.base_url" in str(refused.value)
