"""The real tools that deploy/ is checked with. scripts/deploy-checks installs them; without its tool a test skips."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def found(name: str, how: str = "scripts/deploy-checks installs it") -> str:
    """The program's path; without it the test is skipped."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not on the PATH: {how}")
    return path


def run(
    *command: str, folder: Path = ROOT, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Standard error is part of what it says."""
    return subprocess.run(
        [found(command[0]), *command[1:]],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=240,
    )


def dockerfile_argument(name: str) -> str:
    """The default of one of the Dockerfile's arguments."""
    (value,) = re.findall(rf"^ARG {name}=(.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return str(value)
