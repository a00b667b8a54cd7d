"""The input of a batch: a file, or a pipe that is copied first, because the lines are read twice."""

import contextlib
import gzip
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self, cast

from slhf.errors import InputError
from slhf.json_text import read_json_lines

STANDARD_STREAM = Path("-")
_GZIP = b"\x1f\x8b"


class Source:
    """JSON lines, plain or gzipped. Opening a pipe, or `-` for standard input, reads it to its end.

    Raises InputError for what is neither a file nor a pipe, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.name = "standard input" if path == STANDARD_STREAM else str(path)
        try:
            self._file = _copied(standard_input()) if path == STANDARD_STREAM else _opened(path)
        except OSError as exc:
            raise InputError(f"{path}: {exc.strerror or exc}") from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def is_file(self, path: Path) -> bool:
        """Whether the path, by whatever name or link, is the file that is read here."""
        with contextlib.suppress(OSError):
            return os.path.samefile(path, self._file.fileno())
        return False

    def values(self) -> Iterator[tuple[int, Any]]:
        """Yield each line's number and value from the beginning, without blank lines. Raises InputError naming it."""
        self._file.seek(0)
        zipped = self.name.endswith(".gz") or self._file.peek(2).startswith(_GZIP)  # type: ignore[attr-defined]
        lines = cast(IO[bytes], gzip.GzipFile(fileobj=self._file)) if zipped else self._file
        try:
            yield from read_json_lines(lines, self.name)
        except ValueError as exc:
            raise InputError(str(exc)) from exc
        except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
            raise InputError(f"{self.name}: broken gzip file: {exc}") from exc


def standard_input() -> IO[bytes]:
    """The bytes of standard input. Raises InputError where the process was started without one."""
    if sys.stdin is None:
        raise InputError("there is no standard input")
    return sys.stdin.buffer


def _opened(path: Path) -> IO[bytes]:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
        raise InputError(f"{path}: the input must be a file or a pipe, or - for standard input")
    file = path.open("rb")  # opening a pipe waits for its writer
    if stat.S_ISREG(mode):
        return file
    with file:
        return _copied(file)


def _copied(pipe: IO[bytes]) -> IO[bytes]:
    copy = tempfile.TemporaryFile()
    shutil.copyfileobj(pipe, copy)
    return copy
