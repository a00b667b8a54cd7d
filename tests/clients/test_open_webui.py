"""The filter for Open WebUI, loaded and called as Open WebUI 0.12.4 does it (open_webui/utils/plugin.py, filter.py).

Open WebUI itself is too large to be installed here; the loader below does what its loader does with a pasted file.
"""

import asyncio
import inspect
import re
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import slhf
from slhf.integrations import open_webui
from slhf_server.errors import EngineFailed
from slhf_server.models.base import Turn
from slhf_server.models.fake import FakeEngine, Said, improve
from tests.conftest import Serve, serve

__all__ = ["serve"]

SOURCE = Path(open_webui.__file__).read_text(encoding="utf-8")
REFINED = "better Because it is."


def frontmatter(content: str) -> dict[str, str]:
    first, *lines = content.splitlines()
    assert first == '"""'
    header = lines[: lines.index('"""')]
    found = [re.match(r"^\s*([a-z_]+):\s*(.*)\s*$", line, re.IGNORECASE) for line in header]
    return {match[1]: match[2].strip() for match in found if match}


def loaded(content: str) -> Any:
    """The filter of a pasted file, which is executed in a module that can be imported by nobody afterwards."""
    old = {"from utils": "from open_webui.utils", "from apps": "from open_webui.apps"}
    for name, path in (old | {"from main": "from open_webui.main", "from config": "from open_webui.config"}).items():
        content = content.replace(name, path)
    module = types.ModuleType("function_slhf_0123")
    sys.modules[module.__name__] = module
    try:
        exec(content, module.__dict__)
    finally:
        del sys.modules[module.__name__]
    return module.__dict__["Filter"]()


class WebUI:
    """One chat, and what its user is shown while filters run."""

    def __init__(self, **valves: Any) -> None:
        self.filter = loaded(SOURCE)
        self.filter.valves = self.filter.Valves(**valves)
        self.shown: list[dict[str, Any]] = []

    async def emit(self, event: dict[str, Any]) -> None:
        assert event["type"] == "status"
        self.shown.append(event["data"])

    def outlet(self, content: str, output: Sequence[Any] = (), **user_valves: Any) -> dict[str, Any]:
        """The last message of a chat after the filter."""
        answer = {"id": "2", "role": "assistant", "content": content, "info": None, "timestamp": 1}
        body = {
            "model": "any",
            "messages": [
                {"id": "1", "role": "user", "content": "Why?", "info": None, "timestamp": 1},
                answer | ({"output": output} if output else {}),
            ],
            "filter_ids": ["slhf"],
            "chat_id": "c",
            "session_id": "s",
            "id": "2",
        }
        user = {"id": "u", "valves": self.filter.UserValves(**user_valves)}
        known = {"body": body, "__user__": user, "__event_emitter__": self.emit, "__id__": "slhf", "__model__": {}}
        handler = self.filter.outlet
        wanted = {name: value for name, value in known.items() if name in inspect.signature(handler).parameters}
        last: dict[str, Any] = asyncio.run(handler(**wanted))["messages"][-1]
        return last


def test_an_answer_is_refined_and_the_user_is_told(serve: Serve) -> None:
    chat = WebUI(base_url=serve())
    answer = chat.outlet("Because it is.")
    assert answer["content"] == REFINED
    assert [shown["done"] for shown in chat.shown] == [False, True]
    assert re.fullmatch(r"Refined in \d+\.\d s, rounds: 1", chat.shown[-1]["description"])


def test_the_follower_sees_conversation_instruction_and_rounds_of_the_valves(serve: Serve) -> None:
    engine = FakeEngine()
    WebUI(base_url=f"{serve(engine)}/v1/", rounds=2).outlet("Because it is.", instruction="Make it shorter.")
    first, second = (turns for turns, _ in engine.follower.calls)
    assert [turn.text for turn in first][:2] == ["Why?", "Because it is."]
    assert "Make it shorter." in first[-1].text
    assert second[1].text == REFINED


def test_the_output_that_open_webui_keeps_beside_the_text_is_rewritten_too(serve: Serve) -> None:
    part = {"type": "output_text", "text": "Because it is."}
    answer = WebUI(base_url=serve()).outlet("Because it is.", [{"type": "message", "content": [part]}])
    assert answer["output"][0]["content"][0]["text"] == REFINED


def test_thoughts_stay_before_the_refined_text(serve: Serve) -> None:
    thoughts = '<details type="reasoning" done="true">\n<summary>Thought</summary>\n> Hm.\n</details>\n'
    answer = WebUI(base_url=serve()).outlet(thoughts + "Because it is.")
    assert answer["content"] == thoughts + REFINED


@pytest.mark.parametrize(
    ("content", "output", "user_valves"),
    [
        ("Because it is.", [], {"enabled": False}),
        ("", [], {}),
        ("I look.", [{"type": "function_call", "name": "look_up"}, {"type": "message", "content": []}], {}),
        ('<details type="tool_calls" done="true"></details>\nIt is.', [], {}),
    ],
    ids=["a user who wants none", "no text", "a call of a tool", "an older call of a tool"],
)
def test_what_is_no_draft_is_left_alone(
    serve: Serve, content: str, output: list[Any], user_valves: dict[str, Any]
) -> None:
    chat = WebUI(base_url=serve())
    assert chat.outlet(content, output, **user_valves)["content"] == content
    assert chat.shown == []


def test_a_key_and_a_model_are_sent(serve: Serve) -> None:
    url = serve(api_keys="me=right", models={"other": {}})
    chat = WebUI(base_url=url, api_key="right", model="other")
    assert chat.outlet("Because it is.")["content"] == REFINED


def test_an_answer_stays_where_the_server_refuses_fails_or_is_away(serve: Serve) -> None:
    def fail(turns: Sequence[Turn]) -> Said:
        return EngineFailed("the engine failed")

    for valves in (
        {"base_url": serve(), "model": "unknown"},
        {"base_url": serve(FakeEngine(fail))},
        {"base_url": "http://127.0.0.1:9"},
    ):
        chat = WebUI(**valves)
        assert chat.outlet("Because it is.")["content"] == "Because it is."
        assert chat.shown[-1]["done"]
        assert "Refined" not in chat.shown[-1]["description"]


def test_a_slow_round_is_waited_for_no_longer_than_the_valve_says(serve: Serve) -> None:
    chat = WebUI(base_url=serve(FakeEngine(improve, token_seconds=5.0)), timeout_s=0.05)
    assert chat.outlet("Because it is.")["content"] == "Because it is."
    assert chat.shown[-1] == {"description": "The answer stays as it was (deadline)", "done": True}


def test_the_header_is_one_that_open_webui_reads() -> None:
    header = frontmatter(SOURCE)
    assert header["version"] == slhf.__version__
    assert set(header) == {
        "title", "author", "description", "required_open_webui_version", "requirements", "version", "license",
    }  # fmt: skip


def test_the_pasted_file_needs_nothing_of_slhf() -> None:
    assert not re.search(r"^\s*(from|import) slhf", SOURCE, re.MULTILINE)
