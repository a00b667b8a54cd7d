"""Refine a file of drafts: many at once, each record on disk as soon as it is there, resumed where it stopped."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from slhf.client import AsyncClient
from slhf.errors import APIError, InputError, SLHFError
from slhf.exchange import Options
from slhf.journal import Journal, Record, is_refusal
from slhf.lines import Keys, Line, ids, read_lines
from slhf.wire import RefineResponse

RESULT_KEYS = frozenset({"id", "output", "finish_reason", "refinement", "usage", "error"})
"""What a record says of the refinement; an input field of that name is left out of it."""


@dataclass
class Summary:
    """A batch as far as it has come: numbers of lines."""

    total: int
    skipped: int
    """Finished before this run began."""
    done: int = 0
    refused: int = 0
    """Failed in a way that sending the same line again cannot change."""
    failed: int = 0
    """Failed, and sent again when the same command is run again."""
    tokens: int = 0
    """Generated tokens, drafts included."""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def count(self, record: Record) -> None:
        if "error" not in record:
            self.done += 1
            self.tokens += record["usage"]["completion_tokens"]
        elif is_refusal(record["error"]):
            self.refused += 1
        else:
            self.failed += 1


def _no_report(record: Record, summary: Summary) -> None:
    """Nobody watches."""


async def refine_file(
    client: AsyncClient,
    source: Path,
    target: Path,
    *,
    concurrency: int = 16,
    keys: Keys | None = None,
    defaults: Options | None = None,
    report: Callable[[Record, Summary], None] = _no_report,
) -> Summary:
    """Refine every line of `source` that `target` has no result for; see `slhf.lines` and `slhf.journal` for the files.

    `report` is called with each record after it was written. Raises InputError before anything is sent when a
    line of either file cannot be used, and SLHFError when there is no server; a line's own error is its record.
    """
    keys, defaults = keys or Keys(), defaults or Options()
    wanted = await asyncio.to_thread(_wanted, source, target, keys, defaults)
    journal = Journal(target)
    summary = Summary(total=len(wanted), skipped=len(wanted & journal.finished))
    if summary.skipped == summary.total:
        return summary
    await client.models()  # a wrong address or key is one error now, not one for each line
    todo = (line for line in read_lines(source, keys, defaults) if line.key not in journal.finished)
    with journal:
        async with contextlib.aclosing(refined(client, todo, concurrency)) as records:
            async for record in records:
                journal.append(record)
                summary.count(record)
                report(record, summary)
    return summary


def _wanted(source: Path, target: Path, keys: Keys, defaults: Options) -> set[str]:
    if target.suffix == ".gz" or (target.exists() and target.samefile(source)):
        raise InputError(f"{target}: the output must be a plain file of its own")
    return ids(source, keys, defaults)


async def refined(client: AsyncClient, lines: Iterable[Line], concurrency: int) -> AsyncGenerator[Record]:
    """One record for each line, in the order they finish; never more than `concurrency` lines are under way."""
    running: set[asyncio.Task[Record]] = set()
    try:
        for line in lines:
            running.add(asyncio.create_task(_record(client, line)))
            if len(running) >= concurrency:
                finished, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    yield task.result()
        for next_one in asyncio.as_completed(running):
            yield await next_one
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _record(client: AsyncClient, line: Line) -> Record:
    own = {key: value for key, value in line.fields.items() if key not in RESULT_KEYS}
    try:
        answer = await client.refine(line.conversation, **line.options)
    except SLHFError as exc:
        return {"id": line.id, **own, "error": _error(exc)}
    return {"id": line.id, **own, **_result(answer)}


def _result(answer: RefineResponse) -> Record:
    return answer.model_dump(mode="json", include={"output", "finish_reason", "refinement", "usage"})


def _error(exc: SLHFError) -> dict[str, object]:
    status, code = (exc.status, exc.code) if isinstance(exc, APIError) else (None, None)
    return {"status": status, "code": code, "message": str(exc)}
