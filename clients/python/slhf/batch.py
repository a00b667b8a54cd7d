"""Refines a file of drafts: many at once, each record on disk as soon as it is there, resumed where it stopped."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from slhf._exchange import Options
from slhf._journal import Record, is_refusal, open_output
from slhf._lines import Contents, Keys, Line, contents, read_lines
from slhf._source import Source
from slhf.client import AsyncClient
from slhf.errors import APIError, InputError, SLHFError
from slhf.wire import RefineResponse

_LOG = logging.getLogger(__name__)

RESULT_KEYS = frozenset({"id", "output", "finish_reason", "refinement", "usage", "error"})
"""What a record says of the refinement; an input field of that name is left out of it."""


@dataclass
class Summary:
    """How far a batch has come, in numbers of lines."""

    total: int
    skipped: int
    """Lines that were finished before this run began, `refused_before` of them by a refusal."""
    refused_before: int = 0
    done: int = 0
    refused: int = 0
    """Lines that the server refused; sending them again cannot change that."""
    failed: int = 0
    """Lines that failed otherwise; the same command sends them again."""
    tokens: int = 0
    """Generated tokens, drafts included."""
    started: float = field(default_factory=time.monotonic)

    @property
    def has_results(self) -> bool:
        """Whether any line, of this run or an earlier one, was refined."""
        return self.done + self.skipped > self.refused_before

    @property
    def seconds(self) -> float:
        """Time since the run began."""
        return time.monotonic() - self.started

    def count(self, record: Record) -> None:
        """Add a record of this run."""
        if "error" not in record:
            self.done += 1
            self.tokens += record["usage"]["completion_tokens"]
        elif is_refusal(record["error"]):
            self.refused += 1
        else:
            self.failed += 1


def _no_report(record: Record, summary: Summary) -> None:
    """Report nothing, which is the default."""


async def refine_file(
    client: AsyncClient,
    source: Path,
    target: Path,
    *,
    concurrency: int = 16,
    keys: Keys | None = None,
    options: Options | None = None,
    report: Callable[[Record, Summary], None] = _no_report,
) -> Summary:
    """Refine every line of `source` that `target` has no result for.

    The package's README describes both files; `-` is standard input or output. At most `concurrency` lines are under
    way at once. `options` are for all lines and win over a line's own. `report` is called with each record after it
    was written. Raises InputError before anything is sent when a line of either file cannot be used, and SLHFError when
    there is no server; a line's own error is its record.
    """
    with await asyncio.to_thread(Source, source) as opened:
        return await refine_source(
            client, opened, target, concurrency=concurrency, keys=keys, options=options, report=report
        )


async def refine_source(
    client: AsyncClient,
    source: Source,
    target: Path,
    *,
    concurrency: int = 16,
    keys: Keys | None = None,
    options: Options | None = None,
    report: Callable[[Record, Summary], None] = _no_report,
) -> Summary:
    """Do as `refine_file` does with an input that is open already, because opening a pipe waits for its writer."""
    keys, options = keys or Keys(), options or Options()
    wanted = await asyncio.to_thread(contents, source, keys, options)
    if wanted.like_options:
        columns = ", ".join(sorted(wanted.like_options))
        _LOG.warning("%s: columns that set nothing: %s (options of a line stand under 'refine')", source.name, columns)
    output = open_output(target, source)
    there = wanted.keys & output.finished
    summary = Summary(len(wanted.keys), skipped=len(there), refused_before=len(there & output.refused))
    if summary.skipped == summary.total:
        return summary
    await client.models()  # a wrong address or key is one error now, not one for each line
    todo = (line for line in _same_lines(source, wanted, keys, options) if line.key not in there)
    with output:
        async with contextlib.aclosing(refined(client, todo, concurrency)) as records:
            async for record in records:
                output.append(record)
                summary.count(record)
                report(record, summary)
    return summary


def _same_lines(source: Source, wanted: Contents, keys: Keys, options: Options) -> Iterator[Line]:
    """Yield the lines that were checked. Raises InputError where the file has changed since."""
    left = set(wanted.keys)
    for line in read_lines(source, keys, options):
        if line.number <= wanted.last and line.key in left:
            left.remove(line.key)
            yield line
        if line.number >= wanted.last:
            break
    if left:
        raise InputError(f"{source.name}: it has changed while it was read; the same command goes on")


async def refined(client: AsyncClient, lines: Iterable[Line], concurrency: int) -> AsyncGenerator[Record]:
    """Yield one record for each line, in the order they finish; never more than `concurrency` lines are under way."""
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
