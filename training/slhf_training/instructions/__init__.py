"""Prompts with instructions that a program can check: they are read and written here.

Imported by preference and evaluation.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from slhf_training.checks.instructions import InstructedRow, refusal, unchecked
from slhf_training.data.rows import Row, checked, read_rows
from slhf_training.errors import SettingsError
from slhf_training.types import Chat


def instructed_rows(rows: Iterable[tuple[int, Row]], place: str) -> Iterator[InstructedRow]:
    """Yield numbered rows as checked ones. Raises DataError naming the place, the number and the key."""
    for number, row in rows:
        yield checked(InstructedRow, row, f"{place}:{number}")


def rows_by_prompt(files: Iterable[Path], setting: str) -> dict[str, InstructedRow]:
    """Return the rows of the files by prompt.

    Raises SettingsError naming the setting where an instruction cannot be checked or there is no row, and DataError as
    `instructed_rows` does.
    """
    rows = {row.prompt: row for path in files for row in instructed_rows(read_rows(path), str(path))}
    reasons = {kind: why for row in rows.values() for kind, why in unchecked(row.kinds, row.arguments).items()}
    if reasons:
        raise SettingsError(f"{setting}: {refusal(reasons)}")
    if not rows:
        raise SettingsError(f"{setting}: no row")
    return rows


def row_of(chat: Chat, rows: Mapping[str, InstructedRow]) -> InstructedRow | None:
    """Return the row whose prompt is the chat's only turn; None where there is none."""
    return rows.get(chat[0]["content"]) if len(chat) == 1 else None
