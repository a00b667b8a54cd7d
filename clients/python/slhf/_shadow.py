"""`slhf shadow`: what the verdicts on a served model say, and its preference pairs as a file for training."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from slhf._failures import clear_errors
from slhf._journal import is_stdout
from slhf.client import Client
from slhf.verdicts import PreferenceList, ShadowReport, Tally

shadow = typer.Typer(no_args_is_help=True, help="What judges and people say of a model's refinements.")

Model = Annotated[str, typer.Argument(help="A served model.")]
BaseUrl = Annotated[str | None, typer.Option(help="The server; default $SLHF_BASE_URL, else http://127.0.0.1:8000.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the server's answer as JSON.")]
_DECISIONS = {
    "on": "refine: the refined texts win",
    "off": "do not refine: the drafts win",
    "undecided": "undecided: both are still possible",
}


@shadow.command()
def report(model: Model, as_json: AsJson = False, base_url: BaseUrl = None) -> None:
    """Print how often refined texts win against their drafts, and how sure that is."""
    with clear_errors():
        with Client(base_url) as client:
            found = client.shadow(model)
        if as_json:
            typer.echo(found.model_dump_json(indent=2))
            return
        _print(found)


@shadow.command()
def export(
    model: Model,
    output: Annotated[Path, typer.Option(help="JSON lines, written anew; - is standard output.")] = Path("-"),
    base_url: BaseUrl = None,
) -> None:
    """Write the pairs of texts of which one was better, as `slhf-train` reads them.

    The server has texts only where its setting log_content is on.
    """
    with clear_errors(), Client(base_url) as client:
        written, without = 0, 0
        with nullcontext(sys.stdout) if is_stdout(output) else output.open("w", encoding="utf-8") as file:
            for page in _pages(client, model):
                without = page.without_texts
                written += len(page.data)
                file.writelines(f"{pair.model_dump_json()}\n" for pair in page.data)
    said = f"{output}: {written} pairs"
    if without:
        said += f"; {without} verdicts have none, because the server kept no texts (its setting log_content is off)"
    typer.echo(said, err=is_stdout(output))


def _pages(client: Client, model: str) -> Iterator[PreferenceList]:
    after, more = None, True
    while more:
        page = client.preferences(model, after=after)
        yield page
        after, more = page.last_id, page.has_more


def _print(found: ShadowReport) -> None:
    how = "no shadow" if found.judge is None else f"share {found.share:g}, judge {found.judge}"
    state = f"ended by its {found.ended}" if found.ended else "goes on"
    typer.echo(f"{found.model} (revision {found.revision[:12]}): {how}" + ("" if found.judge is None else f", {state}"))
    table = Table("", "n", "wins", "ties", "losses", "win rate", "95 % at every look", box=None)
    table.add_row("shadow", *_cells(found))
    for stratum, tallies in found.by.items():
        for name, one in tallies.items():
            if (stratum, name) != ("source", "shadow"):
                table.add_row(f"  {stratum}: {name}", *_cells(one))
    Console(markup=False).print(table)
    typer.echo(
        f"at equal length {_share(found.length_controlled)}; matched or beat {_share(found.matched_or_beat)}; both "
        f"orders agree {_share(found.consistency)}; {found.abstained} abstained; spent "
        f"{found.spent.refine_tokens} + {found.spent.judge_tokens} tokens (refinement + judge)"
    )
    typer.echo(_DECISIONS[found.decision])


def _cells(one: Tally) -> list[str]:
    low, high = one.interval
    counts = [str(count) for count in (one.n, one.wins, one.ties, one.losses)]
    return [*counts, _share(one.win_rate), f"{low:.3f} to {high:.3f}"]


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"
