"""The same server with its engine elsewhere: behind a vLLM server's API, by token ids, the same function answers."""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from slhf_server.app import create_app
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.errors import RequestError
from slhf_server.models.base import Turn
from slhf_server.models.fake import FakeEngine, Said, improve
from slhf_server.settings.server import Settings
from tests.conftest import running
from tests.sdks.checks import ANSWER, MODEL, QUESTION
from tests.sdks.server import Served, reply
from tests.server.engine.vllm_stub import VLLMStub, events, in_a_thread, usage
from tests.server.models.upstream.faulty import Asked, Reply, streams
from tests.zoo import CHATML, GPT4, IM, Family, byte_level

FAMILY = Family(lambda: byte_level(IM, GPT4), CHATML, eos="<|im_end|>")
TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)
MODELS = {"object": "list", "data": [{"id": MODEL, "max_model_len": 8192}]}
FAILURE = "failed in the middle of its answer"
"""What a client is told where an engine over there fails in the midst of an answer."""


def words(text: str) -> list[str]:
    return re.findall(r"^[^ ]*| [^ ]*", text)


class Engine:
    """Reads the turns out of a prompt's ids, as its tokenizer and its chat template wrote them, and streams words."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self._encoder = encoder

    def answer(self, asked: Asked) -> Reply:
        prompt = asked.body["prompt"]
        turns = [Turn(role, text) for role, text in TURN.findall(self._encoder.decode(prompt))]
        said = reply(turns)
        text, failed = taken_apart(improve(turns) if isinstance(said, list) else said)  # a remote Leader calls no tools
        made = events(self._encoder, prompt, *words(text), end=not failed)
        return streams(*made, {"error": {"message": FAILURE, "code": 500}} if failed else usage())

    def tokens(self, text: str) -> int:
        """With the one that ends a turn."""
        return sum(len(self._encoder.encode_text(word)) for word in words(text)) + 1


def taken_apart(said: Said) -> tuple[str, bool]:
    if isinstance(said, tuple):
        return said[0], True
    assert not isinstance(said, RequestError | list)
    return said, False


@contextlib.contextmanager
def serving() -> Iterator[Served]:
    with tempfile.TemporaryDirectory() as folder:
        FAMILY.tokenizer().save_pretrained(folder)
        (Path(folder) / "config.json").write_text("{}", encoding="utf-8")
        encoder = PromptEncoder.open_light(Path(folder))
        engine = Engine(encoder)
        stub = VLLMStub(encoder, engine.answer, models=MODELS)
        with in_a_thread(stub):
            remote = {"base_url": stub.url, "model": MODEL, "tokenizer": folder}
            settings = Settings.model_validate(
                {"remote_engines": {"gpu": remote}, "models": {MODEL: {"follower": "gpu", "leader": "follower-engine"}}}
            )
            with running(create_app(settings, FakeEngine().open)) as url:
                tokens = engine.tokens(f"draft of: {QUESTION}") + engine.tokens(ANSWER)
                yield Served(url, tokens, FAILURE, calls_tools=False)
