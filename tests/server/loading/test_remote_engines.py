"""A server whose Follower is on other servers: what it serves, when it is ready, and that it loads no engine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from slhf import Bundle, RoleWeights, write_bundle
from slhf_server.app import create_app
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.loading.remote_engines import open_remote_engines
from slhf_server.models.base import OwnEngine
from slhf_server.models.fake import FakeEngine
from slhf_server.models.upstream.counters import UpstreamMetrics
from slhf_server.observability.metrics import LATENCY, Metrics
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import Settings
from tests.conftest import running, until
from tests.server.conftest import Play, Run
from tests.server.engine.vllm_stub import VLLMStub, always, events, in_a_thread, serving, writes
from tests.server.models.upstream.faulty import HELLO, breaks_off, error, free_port, reset, says, upstream
from tests.zoo import FAMILIES

MESSAGES: list[Any] = [{"role": "user", "content": "What is 2 + 2?"}]


@pytest.fixture(scope="module")
def tokenizer_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tiny")
    FAMILIES["SmolLM"].tokenizer().save_pretrained(place)
    (place / "config.json").write_text("{}", encoding="utf-8")
    write_bundle(place, Bundle(name="tiny", trained="stackelberg"))
    return place


@pytest.fixture(scope="module")
def encoder(tokenizer_at: Path) -> PromptEncoder:
    return PromptEncoder.open_light(tokenizer_at)


async def no_engine(settings: Settings) -> OwnEngine:
    raise AssertionError("no served model needs an engine in this process")


def remote(server: VLLMStub, tokenizer_at: Path, **more: Any) -> dict[str, Any]:
    return {"gpu": {"base_url": server.url, "model": "base", "tokenizer": str(tokenizer_at)} | more}


@pytest.fixture
def stub(encoder: PromptEncoder) -> Iterator[VLLMStub]:
    server = VLLMStub(encoder, writes(encoder, "It is", " 4.", cached=5))
    with in_a_thread(server):
        yield server


def refine(url: str, **body: Any) -> dict[str, Any]:
    answer = httpx2.post(f"{url}/v1/refine", json={"messages": MESSAGES, **body}, timeout=20)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_leader_and_follower_are_asked_over_there_and_nothing_is_loaded_here(
    stub: VLLMStub, tokenizer_at: Path, encoder: PromptEncoder
) -> None:
    with running(create_app(Settings(remote_engines=remote(stub, tokenizer_at)), no_engine)) as url:
        result = refine(url, rounds=2)
        assert result["output"] == "It is 4."
        assert [one["role"] for one in result["refinement"]["rounds"]] == ["leader", "follower", "follower"]
        assert {one["model"] for one in result["refinement"]["rounds"]} == {"tiny"}
        first, second, _ = (one.body["prompt"] for one in stub.asked)
        assert result["refinement"]["usage"]["draft"] == result["usage"] | {
            "prompt_tokens": len(first),
            "completion_tokens": len(encoder.encode_text("It is")) + len(encoder.encode_text(" 4.")) + 1,
            "total_tokens": len(first) + len(encoder.encode_text("It is")) + len(encoder.encode_text(" 4.")) + 1,
            "prompt_tokens_details": {"cached_tokens": 5},
        }
        drafted = [*encoder.encode_text("It is"), *encoder.encode_text(" 4.")]
        assert second[: len(first) + len(drafted)] == [*first, *drafted]  # what the prefix cache over there holds
        card = httpx2.get(f"{url}/v1/models").json()["data"][0]
        assert (card["id"], card["max_model_len"], card["card"]["trained"]) == ("gpu", 512, "stackelberg")
        version = httpx2.get(f"{url}/version").json()
        assert (version["bundle"], version["revision"] is None) == ("tiny", False)
        assert 'slhf_upstream_request_latency_seconds_count{upstream="gpu"} 3.0' in httpx2.get(f"{url}/metrics").text


def test_the_openai_sdk_streams_from_it(stub: VLLMStub, tokenizer_at: Path) -> None:
    with (
        running(create_app(Settings(remote_engines=remote(stub, tokenizer_at)), no_engine)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none") as sdk,
    ):
        chunks = list(sdk.chat.completions.create(model="gpu", messages=MESSAGES, stream=True))
        said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
        assert [piece for piece in said if piece] == ["It is", " 4."]


def test_it_stands_beside_an_engine_in_this_process_and_an_upstream(stub: VLLMStub, tokenizer_at: Path) -> None:
    models = {"here": {}, "there": {"follower": "gpu"}, "draftless": {"follower": "gpu", "leader": "none"}}
    settings = Settings(remote_engines=remote(stub, tokenizer_at), models=models)
    with running(create_app(settings, FakeEngine().open)) as url:
        assert refine(url, draft="It is 5.", model="here")["output"] == "better It is 5."
        assert refine(url, draft="It is 5.", model="there")["output"] == "It is 4."
        answer = httpx2.post(f"{url}/v1/refine", json={"messages": MESSAGES, "model": "draftless"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "draft")


def test_an_upstream_may_lead_and_a_remote_engine_refine(stub: VLLMStub, tokenizer_at: Path) -> None:
    """As where the Leader calls tools: it is asked by chat, the Follower by ids."""
    with upstream(says(HELLO)) as cloud:
        settings = Settings(
            remote_engines=remote(stub, tokenizer_at),
            upstreams={"cloud": {"base_url": cloud.url, "model": "big"}},
            models={"both": {"leader": "cloud", "follower": "gpu"}},
        )
        with running(create_app(settings, no_engine)) as url:
            result = refine(url)
    assert [one["model"] for one in result["refinement"]["rounds"]] == ["big", "tiny"]
    assert [one["text"] for one in result["refinement"]["rounds"]] == ["Hello you", "It is 4."]
    assert cloud.asked[-1].body["messages"] == MESSAGES


def test_keys_have_a_prefix_cache_of_their_own_over_there(stub: VLLMStub, tokenizer_at: Path) -> None:
    settings = Settings(remote_engines=remote(stub, tokenizer_at), api_keys="a=key-a,b=key-b")
    with running(create_app(settings, no_engine)) as url:
        for key in ("key-a", "key-b", "key-a"):
            body = {"messages": MESSAGES, "draft": "It is 5."}
            httpx2.post(f"{url}/v1/refine", json=body, headers={"Authorization": f"Bearer {key}"}).raise_for_status()
    one, two, three = (asked.body["cache_salt"] for asked in stub.asked)
    assert one == three != two


@pytest.mark.parametrize("fault", ["reset", "cut in the middle", "gone"])
def test_a_finished_round_is_the_answer_where_the_server_dies_in_the_next(
    encoder: PromptEncoder, tokenizer_at: Path, fault: str
) -> None:
    begun = events(encoder, [1], "It is", end=False)
    begun[0]["choices"][0].pop("prompt_token_ids")
    dies = {"reset": reset(), "cut in the middle": breaks_off(*begun), "gone": error(503)}[fault]
    server = VLLMStub(encoder, writes(encoder, "It is 4."), always(dies))
    with in_a_thread(server):
        settings = Settings(remote_engines=remote(server, tokenizer_at, max_retries=0))
        with running(create_app(settings, no_engine)) as url:
            result = refine(url, rounds=2)
            assert (result["output"], result["refinement"]["stop_reason"]) == ("It is 4.", "error")
            failing = {"messages": MESSAGES, "draft": "It is 5.", "on_error": "fail"}
            answer = httpx2.post(f"{url}/v1/refine", json=failing, timeout=20)
            assert answer.json()["error"]["code"] in ("upstream_unavailable", "upstream_error")
            assert httpx2.get(f"{url}/health").status_code == 200


def test_until_the_server_has_answered_nothing_is_ready(play: Play, encoder: PromptEncoder, tokenizer_at: Path) -> None:
    async def scenario() -> None:
        server = VLLMStub(encoder, writes(encoder, "It is 4."), models=error(503))
        async with serving(server):
            app = create_app(Settings(remote_engines=remote(server, tokenizer_at)), no_engine)
            http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://x")
            async with app.router.lifespan_context(app), http as h:
                await app.state.service.loading()
                for path in ("/ready", "/v1/models"):
                    early = await h.get(path)
                    assert (early.status_code, early.json()["error"]["code"]) == (503, "engine_unavailable")
                asked = await h.post("/v1/refine", json={"messages": MESSAGES})
                assert asked.status_code == 503
                assert "'gpu' has not answered yet" in asked.json()["error"]["message"]
                server.models = says({"data": [{"id": "base", "max_model_len": 512}]})
                engine = app.state.service.remote_engines["gpu"]
                await until(lambda: bool(engine._lengths))
                assert (await h.get("/ready")).status_code == 200
                assert (await h.post("/v1/refine", json={"messages": MESSAGES})).json()["output"] == "It is 4."

    play(scenario())


def test_the_list_of_models_leaves_out_those_whose_server_has_not_answered(
    play: Play, encoder: PromptEncoder, tokenizer_at: Path
) -> None:
    async def scenario() -> None:
        silent, server = VLLMStub(encoder, models=error(503)), VLLMStub(encoder)
        async with serving(silent), serving(server):
            engines = remote(silent, tokenizer_at) | {"other": remote(server, tokenizer_at)["gpu"]}
            models = {"away": {"follower": "gpu"}, "there": {"follower": "other"}}
            app = create_app(Settings(remote_engines=engines, models=models), no_engine)
            http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://x")
            async with app.router.lifespan_context(app), http as h:
                await app.state.service.loading()
                other = app.state.service.remote_engines["other"]
                await until(lambda: bool(other._lengths))
                listed = await h.get("/v1/models")
                assert listed.status_code == 200
                assert [one["id"] for one in listed.json()["data"]] == ["there"]
                away = await h.get("/v1/models/away")
                assert (away.status_code, away.json()["error"]["code"]) == (503, "engine_unavailable")

    play(scenario())


def test_a_server_that_does_not_fit_ends_the_process_with_the_settings_name(
    encoder: PromptEncoder, tokenizer_at: Path, slhf_server: Run
) -> None:
    server = VLLMStub(encoder)
    with in_a_thread(server):
        flags = {"base_url": server.url, "model": "large", "tokenizer": str(tokenizer_at)}
        variables = {f"SLHF_REMOTE_ENGINES__GPU__{name.upper()}": value for name, value in flags.items()}
        ended = slhf_server("--port", "0", **variables)
    last = ended.stderr.strip().splitlines()[-1]
    assert (ended.returncode, last) == (
        1,
        "slhf-server: remote_engines.gpu.model: the server does not serve 'large', but base, slhf",
    )


def opened(settings: Settings, play: Play) -> None:
    async def scenario() -> None:
        engines = await open_remote_engines(settings, UpstreamMetrics(Metrics().registry, LATENCY))
        for engine in engines.values():
            await engine.close()

    play(scenario())


def test_a_tokenizer_that_is_not_there_is_named_by_its_setting(play: Play, tmp_path: Path) -> None:
    where = f"http://127.0.0.1:{free_port()}/v1"
    engine = {"base_url": where, "model": "m", "tokenizer": str(tmp_path / "none")}
    with pytest.raises(SettingsError, match=r"remote_engines\.gpu\.tokenizer: .*none"):
        opened(Settings(remote_engines={"gpu": engine}), play)


@pytest.mark.parametrize(
    ("adapter", "model", "fits"),
    [
        (None, {"follower": "gpu"}, False),
        ("slhf", {"follower": "gpu"}, True),
        (None, {"follower": "gpu", "leader": "none"}, True),
    ],
)
def test_a_leader_whose_weights_have_no_name_over_there_is_refused(
    play: Play, tokenizer_at: Path, tmp_path: Path, adapter: str | None, model: dict[str, Any], fits: bool
) -> None:
    """The Follower has an adapter of its own here, and the Leader is the base model."""
    for file in tokenizer_at.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "follower").mkdir()
    (tmp_path / "follower" / "adapter_config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "follower" / "adapter_model.safetensors").write_bytes(b"")
    write_bundle(tmp_path, Bundle(name="tiny", follower=RoleWeights(adapter="follower")))
    engine = {"base_url": "http://127.0.0.1:9/v1", "model": "base", "tokenizer": str(tmp_path), "adapter": adapter}
    settings = Settings(remote_engines={"gpu": engine}, models={"m": model})
    if fits:
        opened(settings, play)
    else:
        with pytest.raises(SettingsError, match=r"remote_engines\.gpu\.adapter: None cannot be the bundle's Leader"):
            opened(settings, play)


def test_a_built_in_tokenizer_that_cannot_be_made_here_is_said_with_a_remedy(python: Run, tmp_path: Path) -> None:
    program = f"""
import asyncio, sys
sys.modules["transformers"] = None  # as where it is not installed
from prometheus_client import CollectorRegistry
from slhf_server.loading.remote_engines import open_remote_engines
from slhf_server.models.upstream.counters import UpstreamMetrics
from slhf_server.settings.server import Settings
engine = {{"base_url": "http://127.0.0.1:9/v1", "model": "m", "tokenizer": "builtin:smollm2-135m"}}
settings = Settings(remote_engines={{"gpu": engine}}, cache_dir={str(tmp_path / "cache")!r})
asyncio.run(open_remote_engines(settings, UpstreamMetrics(CollectorRegistry(), [1.0])))
"""
    last = python(program).stderr.strip().splitlines()[-1]
    assert "remote_engines.gpu.tokenizer: 'builtin:smollm2-135m' is made with transformers" in last
    assert last.endswith("which is not installed: give a directory or a hub id")
