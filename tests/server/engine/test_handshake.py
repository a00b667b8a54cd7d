"""A server that is not what the settings say is refused by the setting's name; one that is not yet there is awaited."""

import asyncio
from typing import Any

import pytest

from slhf_server.engine.prompt import PromptEncoder
from slhf_server.settings.problem import SettingsError
from tests.conftest import until
from tests.server.conftest import Play
from tests.server.engine.vllm_stub import MODELS, Stage, VLLMStub, serving, writes
from tests.server.models.upstream.faulty import Reply, error, raw, says


class Foreign(VLLMStub):
    """Its tokenizer reads other words in the same ids."""

    def introduced(self, body: Any) -> Any:
        return super().introduced(body | {"prompt": list(reversed(body["prompt"]))})


class Plain(VLLMStub):
    """An OpenAI-compatible server that knows no ids."""

    def introduced(self, body: Any) -> Any:
        return super().introduced(body | {"return_token_ids": False})


def problem(play: Play, server: VLLMStub, **settings: Any) -> str:
    said: list[str] = []

    async def scenario() -> None:
        async with serving(server):
            stage = Stage(server.encoder, [server])
            engine = stage.build(**settings)
            with pytest.raises(SettingsError) as refused:
                await engine.await_answer()
            said.append(str(refused.value))
            await engine.close()

    play(scenario())
    return said[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "large"}, "remote_engines.gpu.model: the server does not serve 'large', but base, slhf"),
        ({"adapter": "mine"}, "remote_engines.gpu.adapter: the server does not serve 'mine', but base, slhf"),
    ],
)
def test_a_name_that_the_server_does_not_serve_is_told_with_those_it_does(
    play: Play, encoder: PromptEncoder, settings: dict[str, Any], said: str
) -> None:
    assert problem(play, VLLMStub(encoder), **settings) == said


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (says({"data": [{"id": "base"}]}), "remote_engines.gpu.base_url: the server does not tell max_model_len"),
        (says({"models": []}), "remote_engines.gpu.base_url: GET models is answered without a list of models"),
        (raw(b"<html>", kind="text/html"), "remote_engines.gpu.base_url: GET models is answered without a list"),
    ],
)
def test_what_is_no_vllm_server_is_refused(play: Play, encoder: PromptEncoder, models: Reply, said: str) -> None:
    assert problem(play, VLLMStub(encoder, models=models)).startswith(said)


def test_another_models_tokenizer_is_refused(play: Play, encoder: PromptEncoder) -> None:
    assert problem(play, Foreign(encoder)) == "remote_engines.gpu.tokenizer: 't' is not that of 'base' over there"


def test_a_server_without_ids_is_refused(play: Play, encoder: PromptEncoder) -> None:
    assert problem(play, Plain(encoder)).startswith("remote_engines.gpu.base_url: the server does not give token ids")


def test_a_server_that_takes_no_priority_is_refused_with_the_fields_that_it_was_asked_with(
    play: Play, encoder: PromptEncoder
) -> None:
    class Equal(VLLMStub):
        def introduced(self, body: Any) -> Any:
            return {"error": {"code": 400}} if "priority" in body else super().introduced(body)

    said = problem(play, Equal(encoder), priority=-1)
    assert said.startswith("remote_engines.gpu: the server does not answer POST completions with prompt, ")
    assert "priority" in said


def test_one_that_is_still_starting_is_asked_again(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        server = VLLMStub(encoder, writes(encoder, "4"), models=error(503))
        async with serving(server):
            stage = Stage(encoder, [server])
            waiting = asyncio.create_task(stage.build().await_answer())
            await until(lambda: len(stage.slept) >= 3)
            server.models = says(MODELS)
            await waiting
            assert stage.slept[:3] == [0.1, 0.2, 0.4]
            assert stage.engine.max_model_len == 512
            await stage.engine.close()

    play(scenario())


def test_a_second_server_that_does_not_fit_is_left_out_and_logged(
    play: Play, encoder: PromptEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        good = VLLMStub(encoder, writes(encoder, "4"))
        other = VLLMStub(encoder, models=error(503))
        async with serving(good, other):
            stage = Stage(encoder, [good, other])
            waiting = asyncio.create_task(stage.build().await_answer())
            await until(lambda: stage.is_ready)
            other.models = says({"data": [{"id": "another", "max_model_len": 9}]})
            await until(lambda: any("is not asked" in message for message in caplog.messages))
            assert (await stage.ask())[0].text == "4"
            assert stage.engine.max_model_len == 512
            waiting.cancel()
            await asyncio.wait([waiting])
            await stage.engine.close()

    play(scenario())
