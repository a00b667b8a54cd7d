"""The processes that read schemas: limits of time and memory, crashes, impatient clients, and the others meanwhile."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.hostile_inputs import doubling
from slhf_server.models.structured_output.workers import TookTooLong, TooManyWait, Workers
from tests.conftest import until
from tests.server.conftest import Play

EASY, HARD = b'{"type": "object"}', json.dumps(doubling("allOf")).encode()


@asynccontextmanager
async def workers() -> AsyncGenerator[Workers, None]:
    made = Workers()
    try:
        yield made
    finally:
        await made.close()


def children() -> set[int]:
    """Validators of this process that live."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        fields = stat.read_text().rsplit(")", 1)[1].split() if stat.exists() else ["Z", "0"]
        if (
            int(fields[1]) == os.getpid()
            and fields[0] != "Z"
            and b"validator" in (stat.parent / "cmdline").read_bytes()
        ):
            found.add(int(stat.parent.name))
    return found


def test_a_text_that_takes_too_long_is_given_up_and_the_next_one_is_answered(play: Play) -> None:
    async def scenario() -> None:
        async with workers() as made:
            with pytest.raises(TookTooLong):
                await made.ask(HARD, b"{}")
            assert await made.ask(EASY, b"{}") is True

    play(scenario())


def test_hard_tasks_wait_for_each_other_and_easy_ones_for_none_of_them(play: Play) -> None:
    async def scenario() -> None:
        async with workers() as made:
            hard = [asyncio.ensure_future(made.ask(HARD, b"{}")) for _ in range(6)]
            assert await made.ask(EASY, b"{}") is True
            assert any(not task.done() for task in hard)
            await until(lambda: any(task.done() for task in hard), 0.01)
            ends = {type(task.exception()) for task in hard if task.done()}
            for task in hard:
                task.cancel()
            await asyncio.wait(hard)
        assert ends <= {TookTooLong, TooManyWait}

    play(scenario())


def test_a_worker_that_is_killed_is_replaced(play: Play) -> None:
    async def scenario() -> None:
        async with workers() as made:
            assert await made.ask(EASY, b"{}") is True
            for process in children():
                os.kill(process, signal.SIGSEGV)
            assert await made.ask(EASY, b"[]") is False  # the second worker does it, once more
            assert await made.ask(EASY, b"{}") is True

    play(scenario())


def test_a_client_that_goes_away_gets_no_other_clients_answer(play: Play) -> None:
    async def scenario() -> None:
        async with workers() as made:
            await made.ask(EASY, b"{}")
            impatient = asyncio.ensure_future(made.ask(HARD, b"{}"))
            await asyncio.sleep(0.01)
            impatient.cancel()
            assert await made.ask(EASY, b"{}") is True
            assert await made.ask(EASY, b"[]") is False

    play(scenario())


def test_nothing_is_started_before_it_is_needed_and_all_ends(play: Play) -> None:
    async def scenario() -> None:
        before = children()
        async with workers() as made:
            assert children() == before
            await made.ask(EASY, b"{}")
            assert len(children() - before) == 1
        await until(lambda: children() == before)

    play(scenario())


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"items": {"$ref": "#"}}, "[" * 100_000),
        ({"items": {"$ref": "#"}}, "[" * 5_000 + "]" * 5_000),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}}, "{}"),
        ({"type": "string", "pattern": "^(a|a)*$"}, '"' + "a" * 100_000 + 'b"'),
        ({"uniqueItems": True}, json.dumps([{"a": i} for i in range(20_000)] + [{"a": 0}])),
    ],
)
def test_whatever_happens_there_is_an_answer(play: Play, schema: Any, text: str) -> None:
    async def scenario() -> None:
        async with workers() as made:
            try:
                assert await made.ask(json.dumps(schema).encode(), text.encode()) in (True, False)
            except TookTooLong:
                pass
            assert await made.ask(EASY, b"{}") is True

    play(scenario())
