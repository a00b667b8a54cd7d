"""The clients' environments: made once for each list of requirements, kept in the user's cache.

Packages come from where pip's and npm's configuration says.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slhf" / "sdks"


def place_of(requirements: Path) -> Path:
    """Another list or another Python is another folder."""
    made_from = f"{sys.version} {sys.base_prefix} {requirements.suffix}".encode() + requirements.read_bytes()
    return cache() / hashlib.sha256(made_from).hexdigest()[:16]


def ensure(requirements: Path) -> Path:
    """The folder of the environment. Raises CalledProcessError, with the installer's output, if it cannot be made."""
    place = place_of(requirements)
    complete = place / "complete"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            install = install_node if requirements.suffix == ".json" else install_python
            install(requirements, place)
            complete.touch()
    return place


def install_python(requirements: Path, place: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", str(place))
    uv = [str(ROOT / "scripts" / "environment"), "uv", "pip", "install", "--quiet", "--compile-bytecode"]
    run(*uv, "--python", str(place), "--requirement", str(requirements), environ={"SLHF_VENV": sys.prefix})


def install_slhf(target: Path) -> None:
    """The distribution as it is built, without what it depends on, into a folder that lies in no cache."""
    uv = [str(ROOT / "scripts" / "environment"), "uv", "pip", "install", "--quiet", "--no-deps"]
    source = str(ROOT / "clients" / "python")
    run(*uv, "--python", sys.prefix, "--target", str(target), source, environ={"SLHF_VENV": sys.prefix})


def install_node(requirements: Path, place: Path) -> None:
    shutil.copy(requirements, place / "package.json")
    run("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--prefix", str(place))


def run(*command: str, environ: Mapping[str, str] | None = None) -> None:
    settings = {**os.environ, **(environ or {})}
    subprocess.run(command, env=settings, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)


if __name__ == "__main__":  # prints the folder
    sys.stdout.write(f"{ensure(Path(sys.argv[1]))}\n")
