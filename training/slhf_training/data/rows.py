"""Rows of JSONL files: objects with the numbers of their lines, each as the kind that it should be."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeVar, cast

from pydantic import BaseModel, ValidationError

from slhf.json_text import read_json_lines
from slhf_training.data.schemas import Row
from slhf_training.errors import DataError

Checked = TypeVar("Checked", bound=BaseModel)


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """The objects of a JSONL file, gzipped or not, with the numbers of their lines; blank lines are left out.

    Raises DataError naming file and line.
    """
    try:
        with _open(path) as lines:
            for number, row in read_json_lines(lines, str(path)):
                if not isinstance(row, dict):
                    raise DataError(f"{path}:{number}: not a JSON object")
                yield number, row
    except ValueError as exc:
        raise DataError(str(exc)) from exc
    except (OSError, EOFError, zlib.error) as exc:
        raise DataError(f"{path}: {exc}") from exc


def checked(kind: type[Checked], row: Row, place: str) -> Checked:
    """The row as that kind. Raises DataError naming the place and each bad key."""
    try:
        return kind.model_validate(row)
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'row'}: {e['msg']}" for e in exc.errors())
        raise DataError(f"{place}: {problems}") from exc


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
