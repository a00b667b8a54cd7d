"""The output of a batch: JSON lines, appended as refinements finish, so an interruption costs what was running.

{...the input line's own fields, "id", "output", "finish_reason", "refinement", "usage"}
{...the input line's own fields, "id", "error": {"status", "code", "message"}}

Standard output gets the same records, always from the first line on, because nothing can be resumed there.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from slhf._source import STANDARD_STREAM, Source
from slhf.errors import InputError
from slhf.json_text import read_json

Record = dict[str, Any]
_HEAD = b'{"id":'


def is_refusal(error: dict[str, Any]) -> bool:
    """Whether sending the same line again must fail again. A wrong address or model (404) may be corrected."""
    return error["status"] in (400, 413)


class Journal:
    """Opens `path` for appending, after dropping what has to be done again."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()  # a link is written through, not replaced
        self.finished: set[str] = set()
        """The ids whose records stay."""
        self.refused: set[str] = set()
        """The ids among them whose records are errors."""
        if self._path.exists():
            self._resume()

    def __enter__(self) -> Self:
        self._file = self._path.open("ab", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            os.fsync(self._file.fileno())

    def append(self, record: Record) -> None:
        """Write a record. On a full disk it ends as a torn last line, which the next run drops and does again."""
        text = _text(record)
        try:
            while text:
                text = text[self._file.write(text) :]
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, str(self._path)) from exc

    def _resume(self) -> None:
        stale = False
        for _, key, is_error in _lines(self._path):
            stale = stale or key is None or key in self.finished
            if key is not None:
                self.finished.add(key)
                self.refused |= {key} if is_error else set()
        if stale:
            _rewrite(self._path)


class Stream:
    """The records on standard output."""

    finished: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Standard output is not ours to close."""

    def append(self, record: Record) -> None:
        sys.stdout.buffer.write(_text(record))
        sys.stdout.buffer.flush()


def is_stdout(target: Path) -> bool:
    """Whether it is `-`, or another name of the same (/dev/stdout, a file that the shell redirects it to)."""
    if target == STANDARD_STREAM:
        return True
    with contextlib.suppress(OSError, ValueError):  # nothing there, or a standard output that is no file
        return sys.stdout is not None and os.path.samefile(target, sys.stdout.fileno())
    return False


def open_output(target: Path, source: Source) -> Journal | Stream:
    """Open the output. Raises InputError where records cannot be appended to it or its directory is not there."""
    if is_stdout(target):
        if sys.stdout is None:
            raise InputError(f"{target}: there is no standard output")
        return Stream()
    path = target.resolve()
    is_another = target.exists() and not target.is_file()  # asked of the name: that of an open pipe resolves to no file
    if target.suffix == ".gz" or is_another or source.is_file(path):
        raise InputError(f"{target}: the output must be a plain file of its own, or - for standard output")
    if not path.parent.is_dir():
        raise InputError(f"{target}: there is no directory {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{target}: it cannot be written")
    return Journal(path)


def _text(record: Record) -> bytes:
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _rewrite(path: Path) -> None:
    """Keep the finished records alone, each id once; a reader sees the old file or the new one, and none between."""
    number, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".resume", dir=path.parent)
    written: set[str] = set()
    try:
        with open(number, "wb") as file:
            for raw, key, _ in _lines(path):
                if key is not None and key not in written:
                    file.write(raw)
                    written.add(key)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, name)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _lines(path: Path) -> Iterator[tuple[bytes, str | None, bool]]:
    """Yield each line with its id, and whether it is an error. A line without an id is to be dropped and done again.

    Such a line is blank, or torn by a kill, or an error worth a retry. Raises InputError for a line of anything else.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if raw.endswith(b"\n") and not raw.isspace():
                yield raw, *_finished_id(raw, f"{path}:{number}")
            elif raw.isspace() or _is_torn(raw):
                yield raw, None, False
            else:
                raise InputError(
                    f"{path}:{number}: not the record of a refinement; is it the output of another program?"
                )


def _is_torn(raw: bytes) -> bool:
    """Whether a last line without its end is what a kill left of a record, or zeros in its place."""
    return raw.startswith(_HEAD) or _HEAD.startswith(raw) or not raw.strip(b"\0")


def _finished_id(raw: bytes, place: str) -> tuple[str | None, bool]:
    try:
        match read_json(raw):
            case {"id": str() | int() as key, "error": {"status": _, "code": _, "message": _} as error}:
                return (str(key) if is_refusal(error) else None), True
            case {"id": str() | int() as key, "output": str(), "refinement": dict()}:
                return str(key), False
    except ValueError as exc:
        raise InputError(f"{place}: not JSON; is it the output of another program?") from exc
    raise InputError(f"{place}: not the record of a refinement; is it the output of another program?")
