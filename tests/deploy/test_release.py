"""scripts/release, for real: it builds the distributions, installs them elsewhere and describes them."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tests.deploy.programs import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

VERSION = (ROOT / "VERSION").read_text().strip()
DESCRIBED = {
    "slhf": ({"httpx2", "pydantic", "typer"}, {"fastapi", "torch"}),
    "slhf_server": ({"slhf", "fastapi", "tokenizers"}, {"torch", "vllm", "transformers"}),
    "slhf_training": ({"slhf", "torch", "transformers"}, {"fastapi", "vllm"}),
}
"""What is among the components of each, and what is not."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not os.environ.get("RELEASE"):
        pytest.skip("RELEASE is not set: scripts/deploy-checks sets it")
    folder = tmp_path_factory.mktemp("release") / "made"
    command = [str(ROOT / "scripts" / "release"), str(folder)]
    done = subprocess.run(command, env=os.environ | {"SLHF_VENV": sys.prefix}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    print(done.stdout)  # noqa: T201
    return folder


def test_there_are_a_wheel_a_source_and_a_bill_of_each_with_their_sums(made: Path) -> None:
    kinds = ("-py3-none-any.whl", ".cdx.json", ".tar.gz")
    names = sorted(f"{name}-{VERSION}{kind}" for name in DESCRIBED for kind in kinds)
    assert sorted(file.name for file in made.iterdir()) == sorted([*names, "SHA256SUMS"])
    sums = dict(line.split("  ")[::-1] for line in (made / "SHA256SUMS").read_text().splitlines())
    assert sums == {name: sha256((made / name).read_bytes()).hexdigest() for name in names}


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_bill_is_about_the_distribution_and_pins_what_comes_with_it(made: Path, name: str) -> None:
    text = (made / f"{name}-{VERSION}.cdx.json").read_text()
    bill = json.loads(text)
    about = bill["metadata"]["component"]
    assert (about["name"].replace("-", "_"), about["version"]) == (name, VERSION)
    versions = {one["name"].lower(): one["version"] for one in bill["components"]}
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert {one: version.split("+")[0] for one, version in versions.items() if one in pins} == {
        one: pins[one] for one in versions if one in pins
    }
    there, absent = DESCRIBED[name]
    assert there <= versions.keys()
    assert not absent & versions.keys()
    (graph,) = [one for one in bill["dependencies"] if one["ref"] == about["bom-ref"]]
    assert graph["dependsOn"]
    assert "file://" not in text
    assert str(Path.home()) not in text
