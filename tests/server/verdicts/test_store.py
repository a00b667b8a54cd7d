"""Verdicts on disk: what has been added is there, whatever becomes of the process."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from slhf_server.verdicts import report
from slhf_server.verdicts import store as verdict_store
from slhf_server.verdicts.store import Experiment, UnreadableFile, VerdictStore
from tests.server.conftest import Play
from tests.server.verdicts.records import record

HOUSE = Experiment("fake", "0", "house")
WRITER = """
import asyncio, sys
from pathlib import Path
from slhf_server.verdicts.store import VerdictStore
from tests.server.verdicts.records import record

async def write():
    store, number = VerdictStore(Path(sys.argv[1])), 0
    while True:
        number += 1
        await store.add(record(number))
        print(number, flush=True)

asyncio.run(write())
"""


async def numbers(store: VerdictStore) -> list[str]:
    return [row["refinement"] for row in await store.read("SELECT refinement FROM verdicts ORDER BY number")]


def test_a_process_that_is_killed_loses_no_verdict_that_was_kept(tmp_path: Path, play: Play) -> None:
    path = tmp_path / "verdicts.db"
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "50":
                process.kill()  # SIGKILL, while the next one is written
                break
        said = [50, *(int(line) for line in process.stdout)]

    async def scenario() -> None:
        store = VerdictStore(path)
        kept = await numbers(store)
        assert kept[: said[-1]] == [f"refine-{number}" for number in range(1, said[-1] + 1)]
        assert len(kept) <= said[-1] + 1  # the one in flight may be there: nobody has been told of it
        await store.add(record(9999))
        assert (await numbers(store))[-1] == "refine-9999"
        store.close()

    play(scenario())


def test_two_servers_may_share_the_file(tmp_path: Path, play: Play) -> None:
    async def scenario() -> None:
        one, other = VerdictStore(tmp_path / "v.db"), VerdictStore(tmp_path / "v.db")
        await one.add(record(1))
        await other.add(record(2))
        await one.add(record(3))
        assert await numbers(other) == ["refine-1", "refine-2", "refine-3"]
        one.close()
        other.close()

    play(scenario())


def test_an_experiment_goes_on_where_it_stood_and_another_bundle_or_judge_begins_anew(
    tmp_path: Path, play: Play
) -> None:
    async def scenario() -> None:
        store = VerdictStore(tmp_path / "v.db")
        assert (await store.begin(HOUSE, 50.0)).started == 50
        await store.add(record(1))
        await store.add(record(2, outcome="tie"))
        await store.add(record(3, source="vote", judge=""))
        store.spend(HOUSE, 100, 20)
        store.close()

        store = VerdictStore(tmp_path / "v.db")
        again = await store.begin(HOUSE, 99.0)
        assert (again.started, again.refine_tokens, again.judge_tokens) == (50, 100, 20)
        assert again.outcomes == {"win": 1, "tie": 1}
        for another in (Experiment("fake", "1", "house"), Experiment("fake", "0", "other")):
            anew = await store.begin(another, 99.0)
            assert (anew.started, anew.refine_tokens, anew.outcomes) == (99, 0, {})
        store.close()

    play(scenario())


def test_a_keys_later_vote_on_the_same_texts_takes_the_place_of_its_earlier_one(tmp_path: Path, play: Play) -> None:
    async def scenario() -> None:
        store = VerdictStore(tmp_path / "v.db")
        for outcome, key in (("win", "me"), ("loss", "you"), ("both_bad", "me")):
            await store.add(record(1, source="vote", outcome=outcome, key=key))
        rows = await store.read("SELECT outcome, key FROM verdicts ORDER BY key")
        assert [tuple(row) for row in rows] == [("both_bad", "me"), ("loss", "you")]
        store.close()

    play(scenario())


def test_the_file_is_its_owners_and_holds_a_text_only_where_it_may(tmp_path: Path, play: Play) -> None:
    async def scenario() -> None:
        path = tmp_path / "deep" / "v.db"
        store = VerdictStore(path)
        await store.add(record(1, texts=False))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        store.close()
        assert b"draft 1" not in path.read_bytes()
        (row,) = sqlite3.connect(path).execute("SELECT messages, draft, refined, draft_sha256 FROM verdicts")
        assert row[:3] == (None, None, None)
        assert len(row[3]) == 64

    play(scenario())


def test_a_file_that_is_none_of_ours_is_left_alone_and_named(tmp_path: Path, play: Play) -> None:
    foreign = tmp_path / "notes.txt"
    foreign.write_text("not a database, but long enough to look like one\n" * 9)
    newer = tmp_path / "newer.db"
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 99")
    below = foreign / "v.db"

    async def scenario() -> None:
        for path, why in ((foreign, "not a database"), (newer, "version 99"), (below, "Not a directory|File exists")):
            store = VerdictStore(path)
            with pytest.raises(UnreadableFile, match=f"{os.fspath(path)}.*({why})"):
                await store.add(record(1))
            store.close()
        assert foreign.read_text().startswith("not a database")

    play(scenario())


def test_where_nothing_was_kept_nothing_is_read_and_no_file_is_made(tmp_path: Path, play: Play) -> None:
    async def scenario() -> None:
        store = VerdictStore(tmp_path / "v.db")
        found = await report.report(store, HOUSE, None, None, 0.0)
        assert (found.n, found.win_rate, found.interval, found.decision) == (0, None, (0.0, 1.0), "undecided")
        assert not (tmp_path / "v.db").exists()
        store.close()

    play(scenario())


def test_what_is_kept_is_in_the_file_that_lies_there_now(tmp_path: Path, play: Play) -> None:
    """Somebody moves it away under a running server, to keep it elsewhere."""

    async def scenario() -> None:
        store = VerdictStore(tmp_path / "v.db")
        await store.add(record(1))
        (tmp_path / "v.db").rename(tmp_path / "old.db")
        await store.add(record(2))
        assert await numbers(store) == ["refine-2"]
        store.close()

    play(scenario())


def test_it_ends_behind_anothers_lock_although_many_verdicts_wait(
    tmp_path: Path, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict_store, "_WAIT_S", 0.1)

    async def scenario() -> None:
        store = VerdictStore(tmp_path / "v.db")
        await store.add(record(1))
        with closing(sqlite3.connect(tmp_path / "v.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            for number in range(500):  # each would wait for the lock: longer than `play` does
                store.note(record(number, source="select"))
            await asyncio.to_thread(store.close)

    play(scenario())


@pytest.mark.parametrize("name", ["", "notes.txt", "notes.txt/v.db"])
def test_a_file_that_cannot_be_is_found_out_before_anything_is_kept(tmp_path: Path, play: Play, name: str) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but long enough to look like one\n" * 9)

    async def scenario() -> None:
        with pytest.raises(UnreadableFile, match=os.fspath(tmp_path / name)):
            await VerdictStore(tmp_path / name).check()
        await VerdictStore(tmp_path / "deep" / "v.db").check()
        assert not (tmp_path / "deep").exists()

    play(scenario())
