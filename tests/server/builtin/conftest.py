"""A process that fetches the made-up model into a cache of the test's own, by real pip and real huggingface_hub."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.server.builtin.files import Served, listing, serving, wheelhouse

FETCH = """
import logging, sys
from pathlib import Path
from slhf_server.builtin.fetch import fetched
from slhf_server.builtin.weights import read_weights
from slhf_server.bundles.cached import build_once
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import Settings

logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
(weights,) = read_weights(Path(sys.argv[1])).values()
cache = Path(sys.argv[2])

def make(target):
    file = fetched(weights, cache / "fake.fetched", Settings())
    (target / "path").write_text(str(file))
    (target / "content").write_bytes(file.read_bytes())

try:
    build_once(cache / "fake", make)
except SettingsError as exc:
    sys.exit(f"refused: {exc}")
import setuptools  # as vLLM does after the download; on Python 3.11 who looks for the module pip breaks it
"""
"""In a process of its own: huggingface_hub reads its environment when it is imported, and a process can be killed."""


@dataclass
class Fetching:
    """Starts such processes."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    python: tuple[str, ...] = (sys.executable,)

    @property
    def cache(self) -> Path:
        return self.directory / "cache"

    @property
    def place(self) -> Path:
        """Where it puts what it fetches."""
        return self.cache / "fake.fetched"

    def start(self, *, to: int = subprocess.PIPE, **environment: str) -> subprocess.Popen[str]:
        if not (self.directory / "weights.json").exists():
            listing(self.directory)
        return subprocess.Popen(
            [*self.python, "-c", FETCH, str(self.directory / "weights.json"), str(self.cache)],
            cwd=self.directory,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=to,
            text=True,
            start_new_session=True,  # to be killed with its pip
        )

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        with self.start(to=subprocess.PIPE, **environment) as process:
            out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def content(self, ended: subprocess.CompletedProcess[str]) -> bytes:
        """Of the file that was fetched."""
        assert ended.returncode == 0, ended.stderr
        return (self.cache / "fake" / "content").read_bytes()

    def path(self) -> Path:
        """Where that file was."""
        return Path((self.cache / "fake" / "path").read_text())


@pytest.fixture
def fetching(tmp_path: Path) -> Fetching:
    """Nothing is at hand but what the test adds, and no network is asked but 127.0.0.1's."""
    unwanted = ("PIP_", "HF_", "SLHF_")
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(unwanted)}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HF_HUB_ETAG_TIMEOUT": "2"}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels")}
    return Fetching(tmp_path, environment)


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """The folder that pip is told to look in, with the model in parts."""
    return wheelhouse(tmp_path / "wheels")


@pytest.fixture
def server() -> Iterator[Served]:
    with serving(Served()) as served:
        yield served
