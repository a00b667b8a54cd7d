"""The output of a batch: JSON lines, appended as refinements finish: an interruption costs only what was running.

{...the input line's own fields, "id", "output", "finish_reason", "refinement", "usage"}
{...the input line's own fields, "id", "error": {"status", "code", "message"}}
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from slhf.errors import InputError

Record = dict[str, Any]


def is_refusal(error: dict[str, Any]) -> bool:
    """Whether sending the same line again must fail again. An unknown address (404 without a code) may be corrected."""
    return error["status"] in (400, 413) or error["code"] == "model_not_found"


class Journal:
    """Opens `path` for appending, after dropping what has to be done again; `finished` holds the ids that stay."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()  # a link is written through, not replaced
        self.finished = _resume(self._path)

    def __enter__(self) -> Self:
        self._file = self._path.open("ab")
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            os.fsync(self._file.fileno())

    def append(self, record: Record) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._file.flush()


def _resume(path: Path) -> set[str]:
    if not path.exists():
        return set()
    finished: set[str] = set()
    stale = False
    for _, key in _lines(path):
        stale = stale or key is None or key in finished
        if key is not None:
            finished.add(key)
    if stale:
        _rewrite(path)
    return finished


def _rewrite(path: Path) -> None:
    """Only the finished records, each id once; whoever looks sees the old file or the new one."""
    fresh = path.with_name(path.name + ".resume")
    written: set[str] = set()
    with fresh.open("wb") as file:
        for raw, key in _lines(path):
            if key is not None and key not in written:
                file.write(raw)
                written.add(key)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def _lines(path: Path) -> Iterator[tuple[bytes, str | None]]:
    """Each line with its id; None instead of the id: to be done again (torn by a kill, or an error worth a retry)."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            yield raw, _finished_id(raw, f"{path}:{number}") if raw.endswith(b"\n") else None


def _finished_id(raw: bytes, place: str) -> str | None:
    try:
        match json.loads(raw):
            case {"id": str() | int() as key, "error": {"status": _, "code": _, "message": _} as error}:
                return str(key) if is_refusal(error) else None
            case {"id": str() | int() as key, "output": str(), "refinement": dict()}:
                return str(key)
    except ValueError as exc:
        raise InputError(f"{place}: not JSON; is it the output of another program?") from exc
    raise InputError(f"{place}: not the record of a refinement; is it the output of another program?")
