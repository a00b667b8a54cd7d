"""The page in the server's wheel, which is what images install. uv builds it with what pip's configuration names."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.deploy.programs import ROOT

SERVER = ROOT / "server"
ROOM = SERVER / "slhf_server" / "api" / "playground"


def test_the_wheel_holds_the_page(tmp_path: Path) -> None:
    uv = [str(ROOT / "scripts" / "environment"), "uv", "build", "--wheel", "--quiet", "--out-dir", str(tmp_path)]
    done = subprocess.run(
        [*uv, str(SERVER)], env=os.environ | {"SLHF_VENV": sys.prefix}, capture_output=True, text=True, timeout=120
    )
    if "hatchling" in done.stderr and not list(tmp_path.glob("*.whl")):
        pytest.skip(f"no package index has hatchling: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {file.relative_to(SERVER).as_posix() for file in ROOM.rglob("*") if file.suffix not in ("", ".pyc")}
    assert "slhf_server/api/playground/files/vendor/diff.js" in wanted
    assert wanted <= names
