"""Verdicts on disk: one SQLite file, in which a verdict is kept once it has been added.

Writes go through one thread, each in a transaction of its own. The journal is a write-ahead log, so a process that is
killed loses the transaction it is in and no other, and others may read meanwhile; several servers may share the file.
"""

import asyncio
import json
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from slhf_server.verdicts.record import Record

T = TypeVar("T")
_logger = logging.getLogger(__name__)
VERSION = 1
MOST_WAITING = 1_000
"""Choices of judges that wait to be kept; what comes then is not."""
MOST_SELECTED = 10_000
"""Verdicts, of whatever source, behind which a judge's choice is forgotten (docs/api.md)."""
_WAIT_S = 5.0  # for another server's transaction; at the end, for all that was given
_SCHEMA = """
CREATE TABLE verdicts (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    created REAL NOT NULL, source TEXT NOT NULL, outcome TEXT NOT NULL,
    refinement TEXT NOT NULL, key TEXT, model TEXT NOT NULL, revision TEXT NOT NULL, judge TEXT NOT NULL,
    draft_source TEXT NOT NULL, draft_words INTEGER NOT NULL, refined_words INTEGER NOT NULL,
    draft_characters INTEGER NOT NULL, refined_characters INTEGER NOT NULL, edit_ratio REAL,
    p REAL, consistent INTEGER, refine_tokens INTEGER NOT NULL, judge_tokens INTEGER NOT NULL,
    draft_sha256 TEXT NOT NULL, refined_sha256 TEXT NOT NULL,
    messages TEXT, draft TEXT, refined TEXT
);
CREATE INDEX of_a_model ON verdicts (model, revision, number);
CREATE INDEX of_a_source ON verdicts (source, number);
CREATE UNIQUE INDEX one_vote ON verdicts (refinement, ifnull(key, ''), draft_sha256, refined_sha256)
    WHERE source = 'vote';
CREATE TABLE experiments (
    model TEXT NOT NULL, revision TEXT NOT NULL, judge TEXT NOT NULL,
    started REAL NOT NULL, refine_tokens INTEGER NOT NULL DEFAULT 0, judge_tokens INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (model, revision, judge)
);
"""


class UnreadableFile(Exception):
    """The file cannot be used; the message says why and names it."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """What verdicts of a shadow are counted for: another bundle or another judge begins anew."""

    model: str
    revision: str
    judge: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an experiment is."""

    started: float
    refine_tokens: int
    judge_tokens: int
    outcomes: dict[str, int]


class VerdictStore:
    """The file at `path`, which the first write makes, readable by its owner alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="verdicts")
        self._connection: sqlite3.Connection | None = None
        self._connected_to: tuple[int, int] | None = None  # device and inode
        self._room = threading.Semaphore(MOST_WAITING)
        self.used = False
        """Whether there was anything to write. Until then there is no thread, and nothing to close."""
        self._said = ""  # of the latest failure

    async def check(self) -> None:
        """Raises UnreadableFile where nothing could be kept. Makes no file."""
        await asyncio.to_thread(self._check)

    async def begin(self, experiment: Experiment, now: float) -> Progress:
        """Where the experiment stands, which begins now unless it has begun before. Raises UnreadableFile."""
        return await self._write(lambda to: _begin(to, experiment, now))

    async def add(self, record: Record) -> None:
        """Keep a verdict; when this returns it is on disk. A key's later vote takes the place of its earlier one.

        Raises UnreadableFile.
        """
        await self._write(lambda to: _insert(to, record))

    def note(self, record: Record) -> None:
        """Have a judge's choice kept in its turn, unless too many wait for theirs. The latest ones push out older ones,
        because every request may make some."""
        if self._room.acquire(blocking=False):
            done = self._changing(partial(_insert_among_latest, record=record))
            done.add_done_callback(lambda _: self._room.release())
            done.add_done_callback(self._log_failure)

    def spend(self, experiment: Experiment, refine_tokens: int, judge_tokens: int) -> None:
        """Have it noted, in its turn, what a refinement in the shadow has cost; a failure is logged."""
        change = partial(_spend, experiment=experiment, refine_tokens=refine_tokens, judge_tokens=judge_tokens)
        self._changing(change).add_done_callback(self._log_failure)

    async def read(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[sqlite3.Row]:
        """The rows of a query, in a thread. None where there is no file yet. Raises UnreadableFile."""
        return await asyncio.to_thread(self._read, query, values)

    def close(self) -> None:
        """End the thread, after what it has been given. Behind another's lock that takes too long, and is given up."""
        wait([self._writer.submit(self._disconnect)], _WAIT_S)
        self._writer.shutdown(cancel_futures=True)
        self._disconnect()

    async def _write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.wrap_future(self._changing(change))

    def _changing(self, change: Callable[[sqlite3.Connection], T]) -> Future[T]:
        self.used = True
        return self._writer.submit(self._changed, change)

    def _changed(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Raises UnreadableFile."""
        try:
            if self._connection is None or self._connected_to != _identity(self._path):  # it may be moved away
                self._disconnect()
                self._connection = _opened(self._path)
                self._connected_to = _identity(self._path)
            with self._connection:  # a transaction
                return change(self._connection)
        except (OSError, sqlite3.Error) as exc:
            raise UnreadableFile(f"{self._path}: {exc}") from exc

    def _log_failure(self, done: Future[None]) -> None:
        failure = None if done.cancelled() else done.exception()
        if failure is not None and str(failure) != self._said:
            self._said = str(failure)
            _logger.error("a verdict, or what it has cost, could not be kept", exc_info=failure)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _check(self) -> None:
        try:
            if self._path.exists():
                _opened(self._path).close()
                return
            folder = next(parent for parent in self._path.absolute().parents if parent.exists())
            if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
                raise UnreadableFile(f"{self._path}: {folder} is no folder in which a file can be made")
        except (OSError, sqlite3.Error) as exc:
            raise UnreadableFile(f"{self._path}: {exc}") from exc

    def _read(self, query: str, values: Sequence[Any] | Mapping[str, Any]) -> list[sqlite3.Row]:
        if not self._path.exists():
            return []
        try:
            with closing(sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", _WAIT_S, uri=True)) as connection:
                connection.row_factory = sqlite3.Row
                if _version(connection) == 0:  # another is just making it
                    return []
                return connection.execute(query, values).fetchall()
        except sqlite3.Error as exc:
            raise UnreadableFile(f"{self._path}: {exc}") from exc


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file lies there; None: none does."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _opened(path: Path) -> sqlite3.Connection:
    """Raises UnreadableFile, OSError and sqlite3.Error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # it may hold texts; what SQLite puts beside it is alike
    connection = sqlite3.connect(path, _WAIT_S, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing, a power cut the last ones
        with connection:
            connection.execute("BEGIN IMMEDIATE")  # two servers may begin at once
            version = _version(connection)
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")
        if version not in (0, VERSION):
            message = f"{path}: it is of version {version} of its layout, and this server writes {VERSION}"
            raise UnreadableFile(message)
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: sqlite3.Connection) -> int:
    """Of the file's layout; 0: it has none yet."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _insert(connection: sqlite3.Connection, record: Record) -> None:
    row = {
        "created": record.created,
        "source": record.source,
        "outcome": record.outcome,
        "refinement": record.refinement,
        "key": record.key,
        "model": record.model,
        "revision": record.revision,
        "judge": record.judge,
        "draft_source": record.draft_source,
        "draft_words": record.draft.words,
        "refined_words": record.refined.words,
        "draft_characters": record.draft.characters,
        "refined_characters": record.refined.characters,
        "edit_ratio": record.edit_ratio,
        "p": record.p,
        "consistent": record.consistent,
        "refine_tokens": record.refine_tokens,
        "judge_tokens": record.judge_tokens,
        "draft_sha256": record.draft.sha256,
        "refined_sha256": record.refined.sha256,
        "messages": None if record.messages is None else json.dumps(record.messages),
        "draft": record.draft.content,
        "refined": record.refined.content,
    }
    names, places = ", ".join(row), ", ".join(f":{name}" for name in row)
    connection.execute(f"INSERT OR REPLACE INTO verdicts ({names}) VALUES ({places})", row)


def _insert_among_latest(connection: sqlite3.Connection, record: Record) -> None:
    _insert(connection, record)
    forgotten = "DELETE FROM verdicts WHERE source = 'select' AND number <= last_insert_rowid() - ?"
    connection.execute(forgotten, (MOST_SELECTED,))


def _begin(connection: sqlite3.Connection, experiment: Experiment, now: float) -> Progress:
    whose = (experiment.model, experiment.revision, experiment.judge)
    connection.execute(
        "INSERT OR IGNORE INTO experiments (model, revision, judge, started) VALUES (?, ?, ?, ?)", (*whose, now)
    )
    which = "WHERE model = ? AND revision = ? AND judge = ?"
    query = f"SELECT started, refine_tokens, judge_tokens FROM experiments {which}"
    started, refine_tokens, judge_tokens = connection.execute(query, whose).fetchone()
    counted = f"SELECT outcome, count(*) FROM verdicts {which} AND source = 'shadow' GROUP BY outcome"
    return Progress(started, refine_tokens, judge_tokens, dict(connection.execute(counted, whose).fetchall()))


def _spend(connection: sqlite3.Connection, experiment: Experiment, refine_tokens: int, judge_tokens: int) -> None:
    connection.execute(
        "UPDATE experiments SET refine_tokens = refine_tokens + ?, judge_tokens = judge_tokens + ? "
        "WHERE model = ? AND revision = ? AND judge = ?",
        (refine_tokens, judge_tokens, experiment.model, experiment.revision, experiment.judge),
    )
