"""What a command says and ends with where something is wrong that is no bug of ours."""

import contextlib
from collections.abc import Iterator

import typer
from pydantic import ValidationError

from slhf.errors import APIError, InputError, SLHFError


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Print one line instead of a traceback for whatever is not a bug of ours."""
    try:
        yield
    except ValidationError as exc:
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
        raise typer.BadParameter("; ".join(problems)) from exc
    except InputError as exc:
        raise _failure(str(exc), 2) from exc
    except APIError as exc:
        request = f" (request {exc.request_id})" if exc.request_id else ""
        raise _failure(f"{exc.status} {exc.code or exc.type}: {exc}{request}", 1) from exc
    except SLHFError as exc:
        raise _failure(str(exc), 1) from exc
    except BrokenPipeError:  # the reader of our output has seen enough
        raise
    except OSError as exc:
        raise _failure(str(exc), 1) from exc


def _failure(message: str, code: int) -> typer.Exit:
    typer.echo(f"slhf: {' '.join(message.split())}", err=True)
    return typer.Exit(code)
