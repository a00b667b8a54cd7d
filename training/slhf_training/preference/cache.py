"""Judgements kept on disk: sqlite, so that several processes may share one file and a killed run loses nothing."""

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slhf.bundle import revision_of
from slhf_training.errors import SettingsError


class Cache:
    """Numbers by key. `path` None keeps them in memory, for this run alone. Used by one thread."""

    def __init__(self, path: Path | None) -> None:
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path or ":memory:", timeout=60, isolation_level=None)  # every put is committed
        except (OSError, sqlite3.Error) as exc:
            raise SettingsError(f"cache: {path}: {exc}") from exc
        try:
            self._file.execute("CREATE TABLE IF NOT EXISTS judgements (key TEXT PRIMARY KEY, p REAL NOT NULL)")
        except sqlite3.Error as exc:
            self.close()
            raise SettingsError(f"cache: {path}: {exc}") from exc

    def get(self, key: str) -> float | None:
        found = self._file.execute("SELECT p FROM judgements WHERE key = ?", (key,)).fetchone()
        return None if found is None else float(found[0])

    def put(self, key: str, p: float) -> None:
        self._file.execute("INSERT OR REPLACE INTO judgements VALUES (?, ?)", (key, p))

    def put_all(self, judgements: Mapping[str, float]) -> None:
        """All or none, and one write to the disk."""
        self._file.execute("BEGIN IMMEDIATE")
        self._file.executemany("INSERT OR REPLACE INTO judgements VALUES (?, ?)", judgements.items())
        self._file.execute("COMMIT")

    def close(self) -> None:
        self._file.close()


def revisions(value: Any) -> Iterator[str]:
    """Of the contents of the directories that settings name, however deep."""
    if isinstance(value, Path) and value.is_dir():
        yield revision_of(value)
    elif isinstance(value, Mapping | list | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from revisions(one)
