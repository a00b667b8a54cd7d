"""The `slhf` command: the entry point, which must work where the command's own libraries are not installed."""

import io
import sys


def main() -> None:
    """Run the command, or say what has to be installed for it."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files and texts of models may hold characters that the terminal's encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        from slhf._commands import app
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing not in ("typer", "rich"):
            raise
        sys.exit(f"slhf: the command needs {missing}: pip install 'slhf[cli]'")
    app()
