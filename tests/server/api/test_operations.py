"""Models, health, readiness, version, metrics."""

import asyncio
import threading
import time

import httpx2
import pytest

from slhf_server.app import create_app
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.limits import RefineLimits
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import BUILTIN, ServedModel, Settings
from tests.conftest import Serve, running
from tests.standstill import watching


def test_models_are_listed_with_the_bundles_card(serve: Serve) -> None:
    url = serve(models={"first": ServedModel(), "second": ServedModel(leader="none")})
    listed = httpx2.get(f"{url}/v1/models").json()
    assert [card["id"] for card in listed["data"]] == ["first", "second"]
    card = httpx2.get(f"{url}/v1/models/second").json()
    assert (card["object"], card["root"], card["max_model_len"]) == ("model", "fake", 4096)
    assert card["card"]["trained"] == "no"
    assert [one["drafts"] for one in listed["data"]] == [True, False]
    assert httpx2.get(f"{url}/v1/models/third").status_code == 404


def test_a_model_answers_to_its_aliases_and_is_counted_under_its_own_name(serve: Serve) -> None:
    url = serve(models={"first": ServedModel(aliases=("gpt-4o", "claude-x")), "second": ServedModel()})
    listed = httpx2.get(f"{url}/v1/models").json()["data"]
    assert [(card["id"], card["parent"]) for card in listed] == [
        ("first", None),
        ("second", None),
        ("gpt-4o", "first"),
        ("claude-x", "first"),
    ]
    assert httpx2.get(f"{url}/v1/models/claude-x").json()["parent"] == "first"
    messages = [{"role": "user", "content": "x"}]
    for path, body in (
        ("refine", {"prompt": "x"}),
        ("chat/completions", {"messages": messages}),
        ("messages", {"messages": messages, "max_tokens": 9}),
    ):
        assert httpx2.post(f"{url}/v1/{path}", json=body | {"model": "gpt-4o"}).json()["model"] == "first"
    assert httpx2.post(f"{url}/tokenize", json={"prompt": "x", "model": "claude-x"}).status_code == 200
    page = httpx2.get(f"{url}/metrics").text
    assert 'endpoint="messages",finish_reason="stop",model_name="first"} 1.0' in page
    assert "gpt-4o" not in page
    unknown = httpx2.post(f"{url}/v1/refine", json={"prompt": "x", "model": "third"}).json()["error"]["message"]
    assert unknown.endswith("served: first, second, gpt-4o, claude-x")


@pytest.mark.parametrize(
    "models",
    [
        {"first": {"aliases": ["second"]}, "second": {}},
        {"first": {"aliases": ["first"]}},
        {"first": {"aliases": ["x"]}, "second": {"aliases": ["x"]}},
        {"first": {"aliases": ["x", "x"]}},
    ],
)
def test_a_name_is_one_models_alone(models: dict[str, dict[str, list[str]]]) -> None:
    with pytest.raises(SettingsError, match=r"models\.(first|second)\.aliases: '\w+' is the name of a served model"):
        Settings(models=models)


def test_a_models_entry_says_what_a_request_may_ask_it_for(serve: Serve) -> None:
    models = {"short": ServedModel(rounds=2, limits=RefineLimits(rounds=3)), "usual": ServedModel()}
    url = serve(models=models, limits={"timeout_ms": 5000})
    short, usual = httpx2.get(f"{url}/v1/models").json()["data"]
    assert (short["rounds"], usual["rounds"]) == (2, 1)
    assert short["limits"] == {"rounds": 3, "max_total_tokens": 131072, "timeout_ms": 5000}
    assert usual["limits"] == {"rounds": 8, "max_total_tokens": 131072, "timeout_ms": 5000}
    asked = {"prompt": "x", "model": "short", "draft": "d"}
    for rounds, status in ((3, 200), (4, 400)):
        assert httpx2.post(f"{url}/v1/refine", json=asked | {"rounds": rounds}).status_code == status


def test_a_model_without_leader_needs_a_draft(serve: Serve) -> None:
    url = serve(models={"refiner": ServedModel(leader="none", rounds=2)})
    assert httpx2.post(f"{url}/v1/refine", json={"prompt": "x"}).json()["error"]["param"] == "draft"
    assert httpx2.post(f"{url}/v1/refine", json={"prompt": "x", "draft": "d"}).json()["output"] == "better better d"


def test_while_the_engine_loads_the_server_is_alive_and_not_ready() -> None:
    opened = threading.Event()

    async def open_late(settings: Settings) -> FakeEngine:
        await asyncio.to_thread(opened.wait)
        return FakeEngine()

    app = create_app(Settings(), open_late)
    seen: list[tuple[int, int, int]] = []

    async def probe() -> None:
        transport = httpx2.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://x") as http,
        ):
            for _ in range(2):
                answers = [await http.get("/health"), await http.get("/ready"), await http.get("/v1/models")]
                seen.append((answers[0].status_code, answers[1].status_code, answers[2].status_code))
                if answers[1].status_code == 503:
                    assert answers[1].json()["error"]["code"] == "engine_unavailable"
                    assert int(answers[1].headers["retry-after"]) > 0
                opened.set()
                await app.state.service.loading()

    asyncio.run(probe())
    assert seen == [(200, 503, 503), (200, 200, 200)]


def test_an_engine_that_cannot_be_loaded_is_reported() -> None:
    async def fail(settings: Settings) -> FakeEngine:
        raise SettingsError("bundle: no such thing")

    app = create_app(Settings(), fail)
    told: list[bool] = []
    app.state.service.on_failure = lambda: told.append(True)

    async def live() -> None:
        async with app.router.lifespan_context(app):
            await app.state.service.loading()

    asyncio.run(live())
    assert told == [True]
    assert "no such thing" in str(app.state.service.failure)


def test_a_dead_engine_is_not_ready(serve: Serve) -> None:
    engine = FakeEngine()
    url = serve(engine)
    engine.dead = True
    assert httpx2.get(f"{url}/ready").status_code == 503
    assert httpx2.post(f"{url}/v1/refine", json={"prompt": "x"}).json()["error"]["code"] == "engine_unavailable"
    assert httpx2.get(f"{url}/health").status_code == 200


def test_the_engine_is_shut_down_with_the_server() -> None:
    engine = FakeEngine()
    with running(create_app(Settings(), engine.open)):
        assert not engine.was_shut_down
    assert engine.was_shut_down


def test_version_names_build_and_bundle(serve: Serve) -> None:
    told = httpx2.get(f"{serve()}/version").json()
    assert told["revision"] == "0"
    assert told["bundle"] == BUILTIN


def test_metrics_add_up_with_what_the_client_saw(serve: Serve) -> None:
    url = serve()
    answer = httpx2.post(f"{url}/v1/refine", json={"prompt": "a b c", "rounds": 2}).json()
    httpx2.post(f"{url}/v1/refine", json={"prompt": "x " * 5000})
    page = httpx2.get(f"{url}/metrics").text
    usage = answer["refinement"]["usage"]
    refined = sum(r["completion_tokens"] for r in usage["rounds"])
    for line in (
        f'slhf_generation_tokens_total{{model_name="fake",phase="draft"}} {usage["draft"]["completion_tokens"]:.1f}',
        f'slhf_generation_tokens_total{{model_name="fake",phase="refine"}} {refined:.1f}',
        'slhf_request_success_total{endpoint="refine",finish_reason="stop",model_name="fake"} 1.0',
        'slhf_request_failure_total{endpoint="refine",error_type="context_length_exceeded",model_name="fake"} 1.0',
        'slhf_rounds_total{model_name="fake",outcome="changed"} 2.0',
        'slhf_stop_reason_total{model_name="fake",reason="rounds_done"} 1.0',
        'slhf_round_latency_seconds_count{model_name="fake",role="follower",round="2"} 1.0',
        'slhf_request_rounds_sum{model_name="fake"} 2.0',
        'slhf_draft_source_total{model_name="fake",source="leader"} 1.0',
        'slhf_model_info{revision="0",role="follower"} 1.0',
    ):
        assert line in page, line


def test_the_openapi_document_knows_every_route(serve: Serve) -> None:
    paths = httpx2.get(f"{serve()}/openapi.json").json()["paths"]
    assert {"/v1/refine", "/v1/chat/completions", "/v1/models", "/health", "/ready", "/version", "/metrics"} <= set(
        paths
    )


def test_the_description_is_made_beside_the_event_loop(serve: Serve) -> None:
    """It takes a tenth of a second and more, the first time."""
    url = serve()
    with watching(0.05, time.thread_time) as stood_still:
        assert "/v1/refine" in httpx2.get(f"{url}/openapi.json").json()["paths"]
    assert not stood_still
