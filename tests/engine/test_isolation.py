"""Keys do not see each other: the prefix cache of one says nothing of what another has sent."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.engine.conftest import LiveServer, live_server

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
BLOCK = 32  # tokens of one block of the prefix cache on CPU


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with two keys, started as an operator would."""
    with live_server(tmp_path_factory.mktemp("guarded"), *_keys(tmp_path_factory.mktemp("keys"))) as server:
        yield server


def _keys(tmp: Path) -> tuple[str, str]:
    entries = (f'- name: {name}\n  sha256: "{hashlib.sha256(f"key-{name}".encode()).hexdigest()}"\n' for name in "ab")
    file = tmp / "keys.yaml"
    file.write_text("".join(entries), encoding="utf-8")
    return "--api-keys-file", str(file)


def ask(server: LiveServer, key: str, text: str, path: str = "chat/completions", **more: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
    if path == "completions":
        asked = {"prompt": text}
    body = asked | {"max_tokens": 8, "refine": {"rounds": 0}} | more
    headers = {"Authorization": f"Bearer key-{key}"}
    answer = httpx2.post(f"{server.url}/v1/{path}", json=body, headers=headers, timeout=300)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def cached(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def a_text(label: str) -> str:
    """Two hundred tokens or more that nobody has sent before."""
    return f"{label} {time.time_ns()}: " + "alpha bravo charlie delta " * 50


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_a_key_finds_its_own_prompts_and_nobody_elses(guarded: LiveServer, path: str) -> None:
    text = a_text(path)
    assert cached(ask(guarded, "a", text, path)) == 0
    assert cached(ask(guarded, "b", text, path)) == 0
    for key in "ab":
        assert cached(ask(guarded, key, text, path)) >= 4 * BLOCK


def test_a_guess_at_the_beginning_of_anothers_prompt_finds_nothing(guarded: LiveServer) -> None:
    text = a_text("secret")
    ask(guarded, "a", text)
    assert cached(ask(guarded, "b", text[: len(text) // 2] + "and so on")) == 0


def test_rounds_of_a_refinement_find_each_other_and_choices_do_too(guarded: LiveServer) -> None:
    text = a_text("rounds")
    answer = ask(guarded, "a", text, refine={"rounds": 2}, n=2, temperature=1.0, seed=3)
    draft, rounds = answer["refinement"]["usage"]["draft"], answer["refinement"]["usage"]["rounds"]
    for one in rounds:
        assert one["prompt_tokens_details"]["cached_tokens"] >= 0.5 * draft["prompt_tokens"]
    assert cached(ask(guarded, "b", text)) == 0
    again = ask(guarded, "a", text, n=2)
    assert cached(again) >= 2 * 4 * BLOCK


def test_where_the_cache_is_shared_a_key_finds_what_another_has_sent(tmp_path: Path) -> None:
    with live_server(tmp_path, *_keys(tmp_path), "--cache-isolation", "none") as server:
        text = a_text("shared")
        assert cached(ask(server, "a", text)) == 0
        assert cached(ask(server, "b", text)) >= 4 * BLOCK


def test_the_same_seed_gives_the_same_refinement_and_no_round_is_forced_to_copy(guarded: LiveServer) -> None:
    """With one seed for all rounds the Follower would draw its Leader's noise again."""
    text = "Write a short story about a fox and a river."
    more: dict[str, Any] = {"temperature": 1.0, "max_tokens": 24, "seed": 11}
    answers = [ask(guarded, "a", text, **more, refine={"rounds": 2, "return_rounds": True}) for _ in range(2)]
    texts = [[one["text"] for one in answer["refinement"]["rounds"]] for answer in answers]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 3
