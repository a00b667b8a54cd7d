"""The server's refinement loop as a generator, with the server's own fake engine; tests/engine has the real one."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from slhf_server.errors import EngineFailed, EngineUnavailable
from slhf_server.models.base import Turn
from slhf_server.models.fake import FakeEngine, Reply, improve
from slhf_server.settings.server import Settings
from slhf_training.errors import EngineError, SettingsError
from slhf_training.evaluation import GenerationSettings
from slhf_training.evaluation.answers import NONE, Answer
from slhf_training.evaluation.generation import Task
from slhf_training.evaluation.served import Served
from slhf_training.models.bundles import open_bundle

CHAT = [{"role": "user", "content": "Why?"}]
HOW = GenerationSettings(temperature=0.9, max_new_tokens=16, batch_size=2)


def task(draft: str | None, answers: int, chat: Any = CHAT, seed: int = 5, first_round: int = 0) -> Task:
    return Task(chat, draft, answers, seed, first_round)


def written(engine: FakeEngine, tasks: Sequence[Task], how: GenerationSettings = HOW) -> dict[int, list[Answer]]:
    found: dict[int, list[Answer]] = {number: [] for number in range(len(tasks))}

    def keep(number: int, place: int, answer: Answer) -> None:
        assert place == len(found[number])
        found[number].append(answer)

    with Served("slhf", "builtin:smollm2-135m", how, engine.open) as generator:
        generator.write(tasks, keep)
    assert engine.was_shut_down
    return found


def texts(answers: Sequence[Answer]) -> list[str | None]:
    return [answer.text for answer in answers]


def test_leader_and_follower_play_the_servers_rounds() -> None:
    found = written(FakeEngine(), [task(None, 3), task("given", 2), task(None, 1)])
    assert texts(found[0]) == ["draft of: Why?", "better draft of: Why?", "better better draft of: Why?"]
    assert texts(found[1]) == ["better given", "better better given"]
    assert texts(found[2]) == ["draft of: Why?"]


def test_all_models_sample_at_the_temperature_alone() -> None:
    """Neither a bundle's defaults nor a model's generation_config.json have a say."""
    engine = FakeEngine()
    written(engine, [task(None, 2)])
    for model in (engine.leader, engine.follower):
        ((_, sampling),) = model.calls
        assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.repetition_penalty) == (0.9, 1, 0, 1)
        assert sampling.max_tokens == 16


def seeds(*tasks: Task) -> list[int | None]:
    """Of each answer, one task after the other."""
    engine = FakeEngine()
    written(engine, tasks, GenerationSettings(temperature=0.9, max_new_tokens=16, batch_size=1))
    return [sampling.seed for model in (engine.leader, engine.follower) for _, sampling in model.calls]


def test_rounds_share_no_noise() -> None:
    """One seed for all would make each round copy the last one's luck: no sample of omega(.|x, y)."""
    drawn = [*seeds(task(None, 4)), *seeds(task(None, 1, seed=6))]
    assert None not in drawn
    assert len(set(drawn)) == 5
    assert seeds(task(None, 4)) == drawn[:4]


@pytest.mark.parametrize("written_before", [1, 2, 3])
def test_a_run_that_goes_on_draws_what_one_that_was_not_killed_would_have_drawn(written_before: int) -> None:
    rest = task("the text so far", 4 - written_before, first_round=written_before)
    assert seeds(rest) == seeds(task(None, 4))[written_before:]


def test_a_refinement_shares_no_noise_with_the_leader_whose_draft_it_gets() -> None:
    assert seeds(task(None, 1)) != seeds(task("its draft", 1, first_round=1))


def test_without_a_temperature_it_samples_as_it_is_served() -> None:
    engine = FakeEngine()
    written(engine, [task(None, 1)], GenerationSettings(temperature=None, max_new_tokens=None))
    ((_, sampling),) = engine.leader.calls
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (None, None, None)


@pytest.mark.skipif("cpu_quantization" not in Settings.model_fields, reason="this server has no cpu_quantization")
def test_weights_are_rounded_as_the_configuration_says() -> None:
    seen: list[Settings] = []

    async def opened(settings: Settings) -> Any:
        seen.append(settings)
        return await FakeEngine().open(settings)

    for said in ("none", "int8"):
        how = GenerationSettings.model_validate({"cpu_quantization": said})
        with Served("slhf", "builtin:smollm2-135m", how, opened):
            pass
    assert [getattr(settings, "cpu_quantization", None) for settings in seen] == ["none", "int8"]


def test_an_answer_cut_at_the_limit_says_so() -> None:
    engine = FakeEngine(lambda turns: "word " * 40)
    assert written(engine, [task(None, 1)])[0][0].finish == "length"


def test_what_an_answer_cost_is_counted_in_tokens() -> None:
    """The fake engine's tokens are words."""
    draft, refined = written(FakeEngine(), [task(None, 2)])[0]
    assert draft.tokens is not None
    assert refined.tokens == draft.tokens + 1  # "better" and the draft


def follower_says(said: Any) -> Reply:
    """To drafts; the Leader drafts as ever."""

    def reply(turns: Sequence[Turn]) -> Any:
        return said if len(turns) >= 3 else improve(turns)

    return reply


@pytest.mark.parametrize("said", ["", EngineFailed("this one failed")])
def test_a_round_that_gives_nothing_keeps_the_text_before_it(said: Any) -> None:
    found = written(FakeEngine(follower_says(said)), [task(None, 3)])
    assert found[0] == [Answer("draft of: Why?"), *[Answer("draft of: Why?", "kept")] * 2]


def test_a_draft_without_room_for_its_refinement_is_kept() -> None:
    found = written(FakeEngine(max_model_len=30), [task("word " * 40, 2)])
    assert found[0] == [Answer("word " * 40, "kept")] * 2


def test_a_conversation_without_room_is_refused() -> None:
    long = [{"role": "user", "content": "word " * 40}]
    found = written(FakeEngine(max_model_len=30), [task(None, 2, long), task(None, 1)])
    assert found == {0: [NONE, NONE], 1: [Answer("draft of: Why?")]}


def test_a_dead_engine_stops_the_run_and_keeps_nothing_of_its_round() -> None:
    engine = FakeEngine(follower_says(EngineUnavailable("the engine has died")))
    engine.dead = True
    with pytest.raises(EngineError, match="models.slhf: the engine has died"):
        written(engine, [task("given", 1)])
    assert engine.was_shut_down


def test_without_vllm_its_package_is_named(builtin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("slhf_server.engine")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(SettingsError, match=r"models.mine: .*vllm.*slhf-server\[gpu\] or slhf-server\[cpu\]"):
        with Served("mine", str(builtin), HOW):
            raise AssertionError("there is no engine")


def test_a_bundle_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="models.mine: .*nowhere"):
        open_bundle("models.mine", str(tmp_path / "nowhere"))
