"""Which part may import which: read from the source, so that imports inside functions count too."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CLIENT = ROOT / "clients" / "python"
SERVER = ROOT / "server"
TRAINING = ROOT / "training"
MOST_LINES = 500


def sources(*folders: Path) -> list[Path]:
    hidden = re.compile(r"/(\.|build/|node_modules/)")
    files = [path for folder in folders for path in folder.rglob("*.py")]
    return sorted(path for path in files if not hidden.search(path.relative_to(ROOT).as_posix()))


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports anywhere, lazily or for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            yield ast.unparse(node.args[0]).strip("'\"")


def importers(prefix: str, *folders: Path) -> set[str]:
    """The files that import a module or package, relative to their folder."""
    return {
        path.relative_to(folder).as_posix()
        for folder in folders
        for path in sources(folder)
        if any(f"{module}.".startswith(f"{prefix}.") for module in imports(path))
    }


def test_one_package_imports_vllm() -> None:
    found = importers("vllm", SERVER)
    assert "slhf_server/engine/__init__.py" in found
    assert {path for path in found if not path.startswith("slhf_server/engine/")} == set()


def test_one_module_of_training_imports_vllm_and_does_so_late() -> None:
    """vLLM is no dependency of training: it is imported where a configuration asks for it."""
    assert importers("vllm", TRAINING) == {"slhf_training/rollout/vllm.py"}
    module = ast.parse((TRAINING / "slhf_training" / "rollout" / "vllm.py").read_text(encoding="utf-8"))
    early = [ast.unparse(node) for node in module.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not [line for line in early if line.startswith(("import vllm", "from vllm"))]


def test_one_module_imports_that_package() -> None:
    found = importers("slhf_server.engine", SERVER)
    assert {path for path in found if not path.startswith("slhf_server/engine/")} == {"slhf_server/loading.py"}


def test_the_server_needs_no_sdk_of_a_provider() -> None:
    assert importers("openai", SERVER) == set()


def test_the_service_imports_upstreams() -> None:
    found = importers("slhf_server.upstream", SERVER)
    assert {path for path in found if not path.startswith("slhf_server/upstream/")} == {"slhf_server/service.py"}


def test_torch_is_imported_by_what_converts_weights_and_the_engine_alone() -> None:
    found = importers("torch", SERVER)
    elsewhere = {path for path in found if not path.startswith("slhf_server/engine/")}
    assert elsewhere == {"slhf_server/builtin/convert.py", "slhf_server/quantization.py"}


@pytest.mark.parametrize(
    ("folder", "stranger"),
    [
        (SERVER, "slhf_training"),
        (CLIENT, "slhf_server"),
        (CLIENT, "slhf_training"),
        (ROOT / "clients" / "examples", "slhf_server"),
        (SERVER, "tests"),
        (TRAINING, "tests"),
        (CLIENT, "tests"),
    ],
)
def test_dependencies_point_one_way(folder: Path, stranger: str) -> None:
    assert importers(stranger, folder) == set()


def test_training_imports_the_server_to_open_bundles_and_to_evaluate_and_late() -> None:
    users = {"slhf_training/models/bundles.py", "slhf_training/evaluation/served.py"}
    assert importers("slhf_server", TRAINING) == users
    for name in users:
        tree = ast.parse((TRAINING / name).read_text(encoding="utf-8"))
        early = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not any("slhf_server" in line for line in early)


def test_server_and_training_share_the_clients_vocabulary() -> None:
    """The rule above is read from files that are there."""
    assert importers("slhf", SERVER)


def test_the_light_client_needs_httpx2_and_pydantic_alone() -> None:
    project = tomllib.loads((CLIENT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[^\w.-]", requirement)[0] for requirement in project["dependencies"]]
    assert names == ["httpx2", "pydantic"]


def test_the_light_client_imports_what_it_declares() -> None:
    """`slhf.commands` and `slhf.diff` are the command, which has an extra."""
    library = [path for path in sources(CLIENT / "slhf") if path.name not in ("commands.py", "diff.py")]
    packages = {module.partition(".")[0] for path in library for module in imports(path)}
    assert packages - sys.stdlib_module_names - {"slhf"} == {"httpx2", "pydantic"}
    command = {module.partition(".")[0] for path in sources(CLIENT / "slhf") for module in imports(path)}
    assert command - packages - sys.stdlib_module_names == {"rich", "typer"}


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    folders = [ROOT / name for name in ("clients", "server", "training", "tests", "scripts", "benchmarks", "deploy")]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(*folders)}
    assert len(lengths) > 50
    assert {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > MOST_LINES} == {}
