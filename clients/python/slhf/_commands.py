"""The `slhf` command. Exit codes: 0 done, 1 server or network failed, 2 wrong usage or input, 130 interrupted."""

import asyncio
from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from slhf import __version__
from slhf._diff import heading, print_rounds, printable
from slhf._exchange import Options
from slhf._failures import clear_errors
from slhf._journal import Record, is_stdout
from slhf._lines import Keys
from slhf._shadow import shadow
from slhf._source import Source, standard_input
from slhf.batch import Summary, refine_source
from slhf.client import AsyncClient, Client
from slhf.connection import DEFAULT_TIMEOUT
from slhf.wire import (
    RefinementCompleted,
    RefineResponse,
    RoundCompleted,
    RoundDelta,
    RoundJudged,
    RoundStarted,
    Select,
    StopWhen,
)

BATCH_RETRIES = 5
"""A batch is more patient than one question: no reader waits for it, and the full queue is of its own making."""

app = typer.Typer(name="slhf", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

app.add_typer(shadow, name="shadow")

BaseUrl = Annotated[str | None, typer.Option(help="The server; default $SLHF_BASE_URL, else http://127.0.0.1:8000.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the server's answer as JSON.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"slhf {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Improve any language model's answer, round by round. A server's key is read from $SLHF_API_KEY."""


@app.command()
def models(base_url: BaseUrl = None, as_json: AsJson = False) -> None:
    """List the models that the server serves."""
    with clear_errors():
        with Client(base_url) as client:
            cards = client.models()
        if as_json:
            typer.echo("\n".join(card.model_dump_json() for card in cards))
            return
        table = Table("model", "base model", "context", "trained", box=None)
        for card in cards:
            table.add_row(card.id, card.root, str(card.max_model_len or "-"), str(card.card.get("trained", "-")))
        Console(markup=False).print(table)


@app.command()
def refine(
    question: Annotated[str | None, typer.Argument(help="What was asked.")] = None,
    draft: Annotated[str | None, typer.Option(help="File with the answer to improve; - is standard input.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Follower rounds; default: the model's.")] = None,
    model: Annotated[str | None, typer.Option(help="A served model; default: the server's.")] = None,
    instruction: Annotated[str | None, typer.Option(help="An extra wish for the Follower.")] = None,
    profile: Annotated[str | None, typer.Option(help="One of the server's profiles, or none.")] = None,
    seed: Annotated[int | None, typer.Option(help="The noise of each round is derived from it.")] = None,
    priority: Annotated[int | None, typer.Option(help="Lower runs first; a batch's may be above 0.")] = None,
    temperature: Annotated[float | None, typer.Option()] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens of one round.")] = None,
    max_total_tokens: Annotated[int | None, typer.Option(help="Tokens of all rounds, prompts included.")] = None,
    timeout_ms: Annotated[int | None, typer.Option(help="Then the best finished text is the answer.")] = None,
    select: Annotated[str | None, typer.Option(help="last (the server's default), or judge: the best text.")] = None,
    stop_when: Annotated[
        list[str] | None, typer.Option(help="unchanged, small_edit, no_gain or judge_sure; may be repeated.")
    ] = None,
    stop_when_unchanged: Annotated[bool, typer.Option("--stop-when-unchanged")] = False,
    on_error: Annotated[str | None, typer.Option(help="return_draft (the server's default) or fail.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print the rounds as they are written.")] = False,
    as_json: AsJson = False,
    input_: Annotated[Path | None, typer.Option("--input", help="JSON lines; - is standard input.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="JSON lines; an interrupted run goes on. - is standard output, anew.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Lines under way at once.")] = 16,
    prompt_key: Annotated[str | None, typer.Option(help="The field of --input that holds the prompt.")] = None,
    draft_key: Annotated[str | None, typer.Option(help="The field of --input that holds the draft.")] = None,
    wait: Annotated[float, typer.Option(min=1, help="Seconds without a byte before giving up.")] = DEFAULT_TIMEOUT,
    base_url: BaseUrl = None,
) -> None:
    """Improve one answer, or with --input and --output a file of them."""
    _check_usage(question is not None, input_ is not None, output is not None, bool(draft or stream or as_json))
    options = Options(
        model=model,
        rounds=rounds,
        instruction=instruction,
        profile=profile,
        seed=seed,
        priority=priority,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        max_total_tokens=max_total_tokens,
        timeout_ms=timeout_ms,
        select=cast(Select | None, select),
        stop_when=cast(list[StopWhen], stop_when) or None,
        stop_when_unchanged=stop_when_unchanged or None,
        on_error=cast(Literal["return_draft", "fail"] | None, on_error),
    )
    with clear_errors():
        if input_ is not None and output is not None:
            client = AsyncClient(base_url, timeout=wait, max_retries=BATCH_RETRIES)
            _refine_file(client, input_, output, concurrency, Keys(prompt_key, draft_key), options)
        elif question is not None:
            options["draft"] = None if draft is None else _read_draft(draft)
            with Client(base_url, timeout=wait) as one:
                (_stream_one if stream else _refine_one)(one, question, options, as_json)


def _check_usage(question: bool, input_: bool, output: bool, only_for_one: bool) -> None:
    if question == input_:
        raise typer.BadParameter("give either a question or --input")
    if input_ != output:
        raise typer.BadParameter("--input and --output go together")
    if input_ and only_for_one:
        raise typer.BadParameter("--draft, --stream and --json are for one question")


def _read_draft(source: str) -> str:
    """Read a draft byte for byte: the end of its last line is part of it, too."""
    try:
        return (standard_input().read() if source == "-" else Path(source).read_bytes()).decode()
    except (OSError, UnicodeDecodeError) as exc:
        raise typer.BadParameter(f"--draft {source}: {exc}") from exc


def _refine_one(client: Client, question: str, options: Options, as_json: bool) -> None:
    answer = client.refine(question, **options)
    if as_json:
        typer.echo(answer.model_dump_json(indent=2))
        return
    print_rounds(Console(), answer.refinement.rounds)
    typer.echo(_what_happened(answer))


def _stream_one(client: Client, question: str, options: Options, as_json: bool) -> None:
    streamed = ""
    for event in client.stream(question, **options):
        if as_json:
            typer.echo(event.model_dump_json())
            continue
        match event:
            case RoundStarted():
                typer.echo(f"== {heading(event.round, event.role, event.model)}")
                streamed = ""
            case RoundDelta():
                streamed += event.delta
                typer.echo(printable(event.delta), nl=False)
            case RoundCompleted():
                # A draft that the client sent, and a round that a filter held back, come in one piece.
                typer.echo("\n" if streamed else printable(event.text) + "\n")
            case RoundJudged():
                typer.echo(f"{_verdict(event)}\n")
            case RefinementCompleted():
                typer.echo(_what_happened(event))


def _verdict(event: RoundJudged) -> str:
    judge, before = printable(event.judge), "the draft" if event.against == 0 else f"round {event.against}"
    if event.p is None:
        return f"judge {judge}: no verdict" + (" (it could not be asked)" if event.failed else "")
    return f"judge {judge}: better than {before} with p {event.p:.2f}"


def _what_happened(answer: RefineResponse) -> str:
    facts = answer.refinement
    returned = "the draft" if facts.returned_round == 0 else f"round {facts.returned_round}"
    judged = ""
    if facts.selection is not None:
        each = ", ".join("none" if p is None else f"{p:.2f}" for p in facts.selection.p)
        judged = f"; judge {printable(facts.selection.judge)}: p {each or 'none'}"
    return (
        f"answer: {returned} ({facts.stop_reason}; {facts.rounds_run} of {facts.rounds_requested} rounds, "
        f"{answer.usage.total_tokens} tokens, {facts.duration_ms / 1000:.1f} s{judged})"
    )


def _refine_file(
    client: AsyncClient, source: Path, target: Path, concurrency: int, keys: Keys, options: Options
) -> None:
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=None)

        def report(record: Record, summary: Summary) -> None:
            if "error" in record:
                console.print(f"{record['id']}: {record['error']['message']}", markup=False, soft_wrap=True)
            finished = summary.skipped + summary.done + summary.refused + summary.failed
            rate = summary.tokens / max(summary.seconds, 1e-9)
            label = f"{summary.refused} refused, {summary.failed} failed, {rate:.0f} tokens/s"
            progress.update(bar, total=summary.total, completed=finished, description=label)

        async def run(opened: Source) -> Summary:
            async with client:
                return await refine_source(
                    client, opened, target, concurrency=concurrency, keys=keys, options=options, report=report
                )

        try:
            with Source(source) as opened:  # opened here, where an interruption ends the wait for a pipe
                summary = asyncio.run(run(opened))
        except KeyboardInterrupt as exc:
            typer.echo("slhf: interrupted; the same command goes on where it stopped", err=True)
            raise typer.Exit(130) from exc
    _print_summary(summary, target)


def _print_summary(summary: Summary, target: Path) -> None:
    there = f"{summary.skipped} were there" + (f" ({summary.refused_before} refused)" if summary.refused_before else "")
    typer.echo(
        f"{target}: {summary.done} refined, {summary.refused} refused, {summary.failed} failed, "
        f"{there}; {summary.tokens} tokens in {summary.seconds:.1f} s",
        err=is_stdout(target),
    )
    if summary.failed:
        typer.echo("slhf: the same command tries the failed lines again", err=True)
    elif not summary.has_results:
        typer.echo("slhf: every line was refused; it is not tried again while its refusal is in the output", err=True)
    if summary.failed or not summary.has_results:
        raise typer.Exit(1)
