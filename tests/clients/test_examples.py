"""The files in clients/examples run against the fake, on a real port.

Those that need LangChain or npm run in scripts/clients, where these are installed; here they only have to parse.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.clients.fakes import FakeServer

EXAMPLES = Path(__file__).parents[2] / "clients" / "examples"


def run(url: str, *command: object) -> str:
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    environment = {**os.environ, "SLHF_BASE_URL": url, "PATH": path}
    words = [str(word) for word in command]
    return subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout


def test_every_example_has_its_test() -> None:
    tested = {"openai_chat.py", "langchain_chat.py", "node.mjs", "refine.sh", "batch.sh"}
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == tested


def test_the_openai_sdk_example_shows_the_answer_and_the_stream(url: str) -> None:
    answer, refinement, streamed, tokens = run(url, sys.executable, EXAMPLES / "openai_chat.py", "why?").splitlines()
    assert answer == "better better why?"
    assert "'stop_reason': 'rounds_done'" in refinement
    assert (streamed, tokens) == ("better Because it is.", "15 tokens")


def test_the_curl_example_shows_the_answer_and_the_events(url: str) -> None:
    answer, *streamed = run(url, "sh", EXAMPLES / "refine.sh").splitlines()
    assert json.loads(answer)["output"] == "better better Because it is."
    assert "event: refinement.completed" in streamed


def test_the_batch_example_refines_its_lines(fake: FakeServer, url: str, tmp_path: Path) -> None:
    assert "3 refined" in run(url, "sh", EXAMPLES / "batch.sh", tmp_path)
    assert "0 refined, 0 refused, 0 failed, 3 were there" in run(url, "sh", EXAMPLES / "batch.sh", tmp_path)
    assert len(fake.requests) == 3


def test_the_langchain_example_is_a_program() -> None:
    example = EXAMPLES / "langchain_chat.py"
    compile(example.read_text(), example, "exec")


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
def test_the_node_example_is_a_program() -> None:
    subprocess.run(["node", "--check", EXAMPLES / "node.mjs"], check=True, timeout=60)
