"""Runs clients of clients.py against the server: a line OK, FAILED or SKIPPED each. See scripts/clients."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from tests.sdks import environments, remote, server
from tests.sdks.clients import CLIENTS, HERE, SERVED, Client
from tests.sdks.server import Served

TIMEOUT_S = 300  # LiteLLM's proxy takes one to start


@cache
def environment_of(requirements: Path) -> tuple[Path | None, str]:
    """The folder, or None and why it could not be made."""
    try:
        return environments.ensure(requirements), ""
    except subprocess.CalledProcessError as error:
        return None, f"{requirements.name} could not be installed:\n{error.stdout}"


@cache
def slhf_in(scratch: Path) -> Path:
    target = scratch / "slhf"
    environments.install_slhf(target)
    return target


def environ(served: Served, path: Path | None = None) -> dict[str, str]:
    """The user's, less what would lead a client or its Python elsewhere; `path` is where it finds slhf."""
    led_astray = ("OPENAI_", "ANTHROPIC_", "PYTHONPATH", "PYTHONHOME", "SLHF_", "NODE_OPTIONS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(led_astray)}
    kept |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **({"PYTHONPATH": str(path)} if path else {})}
    told = {"BASE_URL": served.url, "COMPLETION_TOKENS": str(served.completion_tokens), "FAILURE": served.failure}
    told["CALLS_TOOLS"] = str(int(served.calls_tools))
    return kept | {f"SLHF_{name}": value for name, value in told.items()}


def command(client: Client, place: Path, scratch: Path) -> list[str]:
    if client.environment.suffix == ".json":
        return ["node", str(scratch / place.name / client.file.name)]
    python = str(place / "bin" / "python")
    return [python, "-m", f"tests.sdks.{client.file.stem}"] if client.parts else [python, str(client.file)]


def lay_out_for_node(client: Client, place: Path, scratch: Path) -> None:
    """Node looks for packages beside the file that imports them."""
    folder = scratch / place.name
    folder.mkdir(exist_ok=True)
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(place / "node_modules")
    for file in (client.file, HERE / "checks.mjs"):
        shutil.copy(file, folder)


def failure(client: Client, part: str, served: Served, scratch: Path) -> str | None:
    """What a failed run printed; None of one that went well."""
    place, why_not = environment_of(client.environment)
    if place is None:
        return why_not
    if client.environment.suffix == ".json":
        lay_out_for_node(client, place, scratch)
    words = [*command(client, place, scratch), *([part] if part else [])]
    try:
        done = subprocess.run(
            words,
            cwd=environments.ROOT,
            env=environ(served, slhf_in(scratch) if client.with_slhf else None),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        return f"{error}\n{error.stdout!r}"
    return done.stdout if done.returncode else None


def reason_to_skip(client: Client, part: str) -> str | None:
    if part and part not in SERVED:
        return "the server does not answer it yet"
    if client.environment.suffix == ".json" and not (shutil.which("node") and shutil.which("npm")):
        return "node and npm are not installed"
    return None


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/clients")
    parser.add_argument("--remote", action="store_true", help="the engine is on another server")
    parser.add_argument("names", nargs="*", help="only clients in whose names one of these occurs")
    asked = parser.parse_args()
    failed = 0
    serving = remote.serving if asked.remote else server.serving
    with tempfile.TemporaryDirectory() as scratch, serving() as served:
        for client in [client for client in CLIENTS if not asked.names or any(n in client.name for n in asked.names)]:
            for part in client.parts or ("",):
                name = f"{client.name}: {part}" if part else client.name
                if reason := reason_to_skip(client, part):
                    say(f"SKIPPED {name} ({reason})")
                elif (output := failure(client, part, served, Path(scratch))) is not None:
                    failed += 1
                    say(f"{output}\nFAILED  {name}")
                else:
                    say(f"OK      {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
