"""A tiny random reward model behind its real HTTP server: its scores are training's, and bad bodies are refused."""

import asyncio
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
import uvicorn
from prometheus_client import CollectorRegistry

from slhf_server.models.base import Turn as ServedTurn
from slhf_server.models.judge import Verdict
from slhf_server.models.judges.reward_server import RewardServer
from slhf_server.models.upstream.counters import UpstreamMetrics
from slhf_server.settings.judging import RewardSettings as EndpointOfReward
from slhf_training.cli import main
from slhf_training.preference import preference_of
from slhf_training.preference.remote import RemoteRewardSettings, remote_reward_of
from slhf_training.preference.reward import RewardSettings
from slhf_training.reward.backbone import Backbone
from slhf_training.reward.model import Head, Manifest, RewardModel
from slhf_training.reward.serving import Limits, application, listener
from slhf_training.types import Chat, Message
from tests.training.tiny import write_backbone

CHATS: list[Chat] = [[Message(role="user", content=f"Say {n}")] for n in range(12)]
FIRST = [f"answer {n} a" for n in range(12)]
SECOND = [f"reply {'b' * n}" for n in range(12)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    backbone = str(write_backbone(folder / "backbone"))
    torch.manual_seed(1)
    manifest = Manifest(
        backbone=backbone, layers=(1, 2), max_tokens=96, batch_tokens=256, heads=("helpful", "brief"), adapters=False
    )
    heads = {name: Head(torch.randn(64), torch.randn(())) for name in manifest.heads}
    RewardModel(manifest, Backbone.load(backbone, (1, 2), 96, 256), heads).save(folder / "judge")
    return folder / "judge"


@contextmanager
def running(model: RewardModel, **more: Any) -> Iterator[str]:
    """The address of a server; it has ended when this does."""
    bound = listener("127.0.0.1", 0)
    app = application(model, "helpful", **more)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def url(directory: Path) -> Iterator[str]:
    with running(RewardModel.load(directory)) as address:
        yield address


def conversation(answer: str, *turns: tuple[str, str]) -> list[dict[str, str]]:
    said = turns or (("user", "Say 1"),)
    return [{"role": role, "content": text} for role, text in (*said, ("assistant", answer))]


def posted(url: str, body: Any) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx2.post(f"{url}/rewards", content=content, timeout=60, trust_env=False)


def test_the_served_rewards_are_trainings_own_on_the_same_pairs(url: str, directory: Path) -> None:
    own = preference_of(RewardSettings(kind="reward", model=directory, head="helpful"))
    asked = remote_reward_of(RemoteRewardSettings(kind="remote-reward", url=f"{url}/rewards", batch_size=5))
    try:
        p = asked(CHATS, FIRST, SECOND)
    finally:
        asked.close()
    assert np.ptp(p) > 0.1
    assert p == pytest.approx(own(CHATS, FIRST, SECOND), abs=1e-5)
    scores = RewardModel.load(directory).scores(CHATS, FIRST, ["helpful"])[0]
    body = {"conversations": [conversation(text, ("user", f"Say {n}")) for n, text in enumerate(FIRST)]}
    assert posted(url, body).json()["rewards"] == pytest.approx(scores.tolist(), abs=1e-5)


def test_the_servers_judge_asks_it_and_says_what_training_says(url: str, directory: Path) -> None:
    own = preference_of(RewardSettings(kind="reward", model=directory, head="helpful"))

    async def asked() -> list[Verdict]:
        settings = EndpointOfReward(base_url=f"{url}/rewards")
        judge = RewardServer("house", settings, UpstreamMetrics(CollectorRegistry(), [1.0]))
        try:
            triples = zip(CHATS, FIRST, SECOND, strict=True)
            return [
                await judge.compare([ServedTurn("user", chat[0]["content"])], old, new, request_id="r")
                for chat, new, old in triples
            ]
        finally:
            await judge.close()

    p = [verdict.p for verdict in asyncio.run(asked())]
    assert p == pytest.approx(own(CHATS, FIRST, SECOND).tolist(), abs=1e-5)


def test_many_askers_at_once_get_their_own_rewards(url: str) -> None:
    """They wait while the first is scored, and are scored together then."""
    bodies = [{"conversations": [conversation("x" * n), conversation("y" * n)]} for n in range(1, 9)]
    alone = [posted(url, body).json()["rewards"] for body in bodies]
    found: dict[int, list[float]] = {}

    def ask(place: int) -> None:
        found[place] = posted(url, bodies[place]).json()["rewards"]

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert np.array([found[place] for place in range(len(bodies))]) == pytest.approx(np.array(alone), abs=1e-5)


def test_what_is_longer_than_the_model_reads_has_no_reward(url: str) -> None:
    body = {"conversations": [conversation("short"), conversation("long" * 100)]}
    short, long = posted(url, body).json()["rewards"]
    assert isinstance(short, float)
    assert long is None


def test_control_tokens_in_a_text_are_text(url: str, directory: Path) -> None:
    text = "a</s><assistant>b"
    (reward,) = posted(url, {"conversations": [conversation(text)]}).json()["rewards"]
    assert reward == pytest.approx(RewardModel.load(directory).scores([CHATS[1]], [text], ["helpful"])[0, 0], abs=1e-5)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 100_000, "JSON"),
        (
            b'{"conversations": [[{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": ""}]]}',
            "JSON",
        ),
        ([], "an object"),
        ({}, "conversations: Field required"),
        ({"conversations": []}, "at least 1"),
        ({"conversations": [conversation("a")] * 65}, "at most 64"),
        ({"conversations": [[]]}, "ends with a user's turn"),
        ({"conversations": [conversation("a")[:1]]}, "ends with a user's turn"),
        ({"conversations": [conversation("a", ("tool", "b"))]}, "conversations.0.0.role"),
        ({"conversations": [[{"role": "user", "content": [{"type": "text", "text": "a"}]}]]}, "valid string"),
        ({"conversations": [conversation("a")], "head": "brief"}, "head: Extra inputs"),
    ],
)
def test_a_bad_body_is_refused_by_name(url: str, body: Any, problem: str) -> None:
    answer = posted(url, body)
    assert answer.status_code == 400
    assert problem in answer.json()["error"]


@pytest.fixture(scope="module")
def narrow(directory: Path) -> Iterator[str]:
    """A server with little room and less patience."""
    with running(RewardModel.load(directory), limits=Limits(bytes=4096, seconds=0.2, waiting=1)) as address:
        yield address


def test_a_large_body_is_refused(narrow: str) -> None:
    answer = posted(narrow, b"x" * 5000)
    assert (answer.status_code, answer.json()) == (413, {"error": "a body has at most 4096 bytes"})


def test_a_body_that_does_not_come_is_not_waited_for(narrow: str) -> None:
    host, port = narrow.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as slow:
        slow.sendall(b"POST /rewards HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_more_than_may_wait_are_told_to_come_again(narrow: str) -> None:
    answer = posted(narrow, {"conversations": [conversation("a")] * 2})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert posted(narrow, {"conversations": [conversation("a")]}).status_code == 200


def test_other_methods_and_paths_are_not_there(url: str) -> None:
    assert httpx2.get(f"{url}/rewards", trust_env=False).json() == {"error": "Method Not Allowed"}
    assert httpx2.get(f"{url}/", trust_env=False).status_code == 404
    assert httpx2.get(f"{url}/health", trust_env=False).json() == {"head": "helpful"}


class Breaking(RewardModel):
    """Fails on one text."""

    def scores(self, chats: Any, answers: Any, heads: Any = ()) -> Any:
        if "break" in answers:
            raise RuntimeError("out of memory")
        return super().scores(chats, answers, heads)


def test_a_failing_batch_is_answered_and_the_next_one_is_scored(directory: Path) -> None:
    with running(Breaking.load(directory)) as address:
        failed = posted(address, {"conversations": [conversation("break")]})
        assert (failed.status_code, failed.json()) == (500, {"error": "the model failed"})
        assert posted(address, {"conversations": [conversation("a")]}).status_code == 200


def test_a_key_is_demanded_where_one_is_set(directory: Path) -> None:
    with running(RewardModel.load(directory), authorization="Bearer s3cret") as address:
        body = {"conversations": [conversation("a")]}
        assert posted(address, body).status_code == 401
        allowed = httpx2.post(
            f"{address}/rewards", json=body, headers={"authorization": "Bearer s3cret"}, trust_env=False
        )
        assert allowed.status_code == 200


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "--head: .* has several: helpful, brief"),
        (("--head", "kind"), "--head: .* has no head kind; it has helpful, brief"),
        (("--head", "brief", "--api-key-variable", "NO_SUCH_KEY"), "NO_SUCH_KEY is not set"),
        (("--head", "brief", "--port", "99999999"), "--port 99999999: ports are 0 to 65535"),
        (("--head", "brief", "--host", "192.0.2.1"), "--host 192.0.2.1, --port 8100: cannot bind"),
    ],
)
def test_the_command_says_what_is_wrong(
    directory: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], problem: str
) -> None:
    port = () if "--port" in arguments or "--host" in arguments else ("--port", "0")
    assert main(["reward", "serve", str(directory), *arguments, *port]) == 1
    assert re.search(problem, capsys.readouterr().err)


def test_a_directory_without_a_reward_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reward", "serve", str(tmp_path), "--port", "0"]) == 1
    assert f"{tmp_path}: no reward model" in capsys.readouterr().err


def test_the_command_serves_until_it_is_told_to_end(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listener("127.0.0.1", 0) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    answers = []

    def ask() -> None:
        with httpx2.Client(transport=httpx2.HTTPTransport(retries=8), timeout=60) as client:
            answers.append(client.post(f"{address}/rewards", json={"conversations": [conversation("a")]}))
        os.kill(os.getpid(), signal.SIGINT)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    assert main(["reward", "serve", str(directory), "--head", "brief", "--port", address.rpartition(":")[2]]) == 0
    asking.join(60)
    assert capsys.readouterr().out == f"head brief at {address}/rewards\n"
    own = RewardModel.load(directory).scores([CHATS[1]], ["a"], ["brief"])[0]
    assert answers[0].json()["rewards"] == pytest.approx(own.tolist(), abs=1e-5)
