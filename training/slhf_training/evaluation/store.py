"""Records on disk, one JSON line each, appended as they come: a killed run loses at most the line it was writing."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from slhf_training.errors import DataError

Record = dict[str, Any]


class Store:
    """Records by their `key`; of two with one key the later counts. A torn last line is cut off first."""

    def __init__(self, path: Path) -> None:
        """Raises DataError for a file that is no store."""
        self._records: dict[str, Record] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._read(path) if path.exists() else 0
        self._file = path.open("ab")
        self._file.truncate(whole)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            os.fsync(self._file.fileno())

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: str) -> Record | None:
        return self._records.get(key)

    def _read(self, path: Path) -> int:
        """The bytes of whole lines."""
        whole = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n"):
                    record = _record(line, f"{path}:{number}")
                    self._records[record["key"]] = record
                    whole += len(line)
        return whole

    def append(self, record: Record) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        self._file.flush()
        self._records[record["key"]] = record


def _record(line: bytes, place: str) -> Record:
    try:
        record = json.loads(line)
        str(record["key"])
    except (ValueError, TypeError, KeyError) as exc:
        raise DataError(f"{place}: not a record of an evaluation: {exc}") from exc
    return dict(record)
