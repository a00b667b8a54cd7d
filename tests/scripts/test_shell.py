import os
import subprocess
from pathlib import Path

import pytest

COMMANDS = [
    "scripts/serve",
    "scripts/test",
    "scripts/check",
    "scripts/clients",
    "scripts/dashboards",
    "scripts/pin",
    "scripts/prometheus",
    "scripts/release",
    "scripts/image-labels",
    "scripts/deploy-checks",
    "scripts/environment",
    ".ci/run",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_parses_is_executable_and_stops_at_its_first_error(root: Path, command: str) -> None:
    subprocess.run(["bash", "-n", str(root / command)], check=True)
    assert os.access(root / command, os.X_OK)
    assert "set -euo pipefail" in (root / command).read_text()
