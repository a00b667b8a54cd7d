"""Which part may import which: read from the source, so that imports inside functions count too."""

import ast
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CLIENT = ROOT / "clients" / "python"
SERVER = ROOT / "server"
TRAINING = ROOT / "training"
MOST_LINES = 500
COMMAND = ("_commands", "_diff", "_failures", "_shadow")
"""The modules of the client that are its command."""
FLOORS = [
    ["cli"],
    ["app"],
    ["api/openai", "api/anthropic"],
    ["api"],
    ["service", "loading"],
    ["engine", "builtin", "observability", "models/judges", "verdicts"],
    ["refinement", "bundles", "models/upstream"],
    ["models", "access"],
    ["models/structured_output", "deadline"],
    ["errors", "settings"],
]
"""The server's rooms from the street down to the ground (docs/design.md): a room imports from floors below its own."""


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
    assert "slhf_server/engine/vllm.py" in found
    assert {path for path in found if not path.startswith("slhf_server/engine/")} == set()


def test_one_module_of_training_imports_vllm_and_does_so_late() -> None:
    """vLLM is no dependency of training: it is imported where a configuration asks for it."""
    assert importers("vllm", TRAINING) == {"slhf_training/rollout/vllm.py"}
    module = ast.parse((TRAINING / "slhf_training" / "rollout" / "vllm.py").read_text(encoding="utf-8"))
    early = [ast.unparse(node) for node in module.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not [line for line in early if line.startswith(("import vllm", "from vllm"))]


def test_one_room_imports_that_package() -> None:
    found = importers("slhf_server.engine", SERVER)
    openers = {"slhf_server/loading/start.py", "slhf_server/loading/remote_engines.py"}
    assert {path for path in found if not path.startswith("slhf_server/engine/")} == openers


def test_the_server_needs_no_sdk_of_a_provider() -> None:
    assert importers("openai", SERVER) == set()


def test_the_service_and_remote_engines_import_upstreams() -> None:
    """And judges, of which one asks a reward model as an upstream is asked; and who hands their metrics around."""
    found = importers("slhf_server.models.upstream", SERVER)
    names = [
        *("service", "loading/remote_engines", "engine/remote", "engine/replicas", "engine/completions_api"),
        *("models/judges/kinds", "models/judges/reward_server"),
    ]
    elsewhere = {path for path in found if not path.startswith("slhf_server/models/upstream/")}
    assert elsewhere == {f"slhf_server/{name}.py" for name in names}


def test_torch_is_imported_by_what_converts_weights_and_the_engine_alone() -> None:
    found = importers("torch", SERVER)
    elsewhere = {path for path in found if not path.startswith("slhf_server/engine/")}
    assert elsewhere == {"slhf_server/builtin/convert.py", "slhf_server/bundles/quantization.py"}


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


def test_one_module_plans_what_requests_ask_for() -> None:
    calls = ((path, node) for path in sources(SERVER) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    planning = {path for path, node in calls if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".plan")}
    assert [path.relative_to(SERVER).as_posix() for path in planning] == ["slhf_server/api/planning.py"]


def test_no_request_is_rewritten_into_a_chats() -> None:
    assert importers("slhf_server.api.openai.chat_request.ChatRequest", SERVER) == {"slhf_server/api/openai/chat.py"}


def test_server_and_training_share_the_clients_vocabulary() -> None:
    """The rule above is read from files that are there."""
    assert importers("slhf", SERVER)


def test_the_light_client_needs_httpx2_and_pydantic_alone() -> None:
    project = tomllib.loads((CLIENT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[^\w.-]", requirement)[0] for requirement in project["dependencies"]]
    assert names == ["httpx2", "pydantic"]


def packages(files: list[Path]) -> set[str]:
    """What the files import, but for Python's own and slhf."""
    return {module.partition(".")[0] for path in files for module in imports(path)} - sys.stdlib_module_names - {"slhf"}


def test_the_light_client_imports_what_it_declares() -> None:
    """`slhf._commands` and what it alone imports are the command, which has an extra. An integration needs its host."""
    everything, integrations = sources(CLIENT / "slhf"), sources(CLIENT / "slhf" / "integrations")
    command = [path for path in everything if path.stem in COMMAND]
    library = [path for path in everything if path not in [*command, *integrations]]
    assert packages(library) == {"httpx2", "pydantic"}
    assert packages(command) - packages(library) == {"rich", "typer"}
    assert packages(integrations) - packages(library) == {"litellm"}
    assert importers("slhf.integrations", CLIENT) == set()


def test_underscore_modules_of_the_client_are_its_own() -> None:
    """A module without an underscore is public, or shared with the server and with training."""
    private = {path.stem for path in sources(CLIENT / "slhf") if path.stem.startswith("_")} - {"__init__"}
    assert private == {*COMMAND, "_exchange", "_journal", "_lines", "_source"}
    others = (SERVER, TRAINING, *(ROOT / name for name in ("clients/examples", "benchmarks", "scripts", "deploy")))
    assert {name: found for name in private if (found := importers(f"slhf.{name}", *others))} == {}


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    folders = [ROOT / name for name in ("clients", "server", "training", "tests", "scripts", "benchmarks", "deploy")]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(*folders)}
    assert len(lengths) > 50
    assert {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > MOST_LINES} == {}


@cache
def modules(package: Path) -> dict[str, Path]:
    """The modules of a package by dotted name; `__init__` has its package's."""
    dotted = {path: path.relative_to(package.parent).with_suffix("").as_posix() for path in sources(package)}
    return {name.removesuffix("/__init__").replace("/", "."): path for path, name in dotted.items()}


@cache
def arrows(package: Path) -> set[tuple[str, str]]:
    """Which module imports which other one of the same package, wherever in the file."""
    known = modules(package)
    found = set()
    for name, path in known.items():
        for imported in imports(path):
            target = imported if imported in known else imported.rpartition(".")[0]
            if target in known and target != name:
                found.add((name, target))
    return found


def door(module: str) -> str:
    """The package or module on a distribution's corridor that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def between(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Arrows between modules as arrows between rooms."""
    return {(door(one), door(other)) for one, other in pairs if door(one) != door(other)}


def room(module: str) -> str:
    """The room of `FLOORS` that a module of the server lies in: the innermost one that is listed."""
    place = module.partition(".")[2].replace(".", "/")
    listed = [name for floor in FLOORS for name in floor if f"{place}/".startswith(f"{name}/")]
    assert listed, f"{module} lies in no room of FLOORS"
    return max(listed, key=len)


@pytest.mark.parametrize(
    "package",
    [SERVER / "slhf_server", CLIENT / "slhf", TRAINING / "slhf_training"],
    ids=["server", "client", "training"],
)
def test_no_rooms_import_each_other_in_a_circle(package: Path) -> None:
    graph: dict[str, set[str]] = {}
    for one, other in between(arrows(package)):
        graph.setdefault(one, set()).add(other)
    assert len(list(TopologicalSorter(graph).static_order())) > 5  # raises CycleError, which names the circle


def test_no_arrow_of_the_server_leads_back_up() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    package = SERVER / "slhf_server"
    inside = {name: room(name) for name in modules(package) if name != "slhf_server"}
    pairs = {(one, other) for one, other in arrows(package) if inside[one] != inside[other]}
    assert len(pairs) > 100
    assert {pair for pair in pairs if floor[inside[pair[0]]] >= floor[inside[pair[1]]]} == set()


def test_the_server_is_a_house_of_few_rooms() -> None:
    package = SERVER / "slhf_server"
    assert {door(name) for name in modules(package)} - {""} == {
        name for floor in FLOORS for name in floor if "/" not in name
    }
    assert len([name for floor in FLOORS for name in floor if "/" not in name]) <= 16
    assert len(between(arrows(package))) <= 58


def test_rooms_say_what_they_are_for() -> None:
    """The `__init__` of a room has a docstring and no code."""
    for path in (SERVER / "slhf_server").rglob("__init__.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.parent.name not in ("slhf_server", "stops"):  # stop rules are registered there
            assert ast.get_docstring(tree), path
            assert len(tree.body) == 1, path


def test_tests_of_the_server_lie_in_folders_like_the_rooms_they_test() -> None:
    tests, package = ROOT / "tests" / "server", SERVER / "slhf_server"
    folders = {path.parent.relative_to(tests) for path in sources(tests)}
    assert len(folders) > 10
    assert {str(folder) for folder in folders if not (package / folder / "__init__.py").is_file()} == set()


def test_no_two_modules_of_the_server_have_one_name() -> None:
    names = Counter(name.rpartition(".")[2] for name in modules(SERVER / "slhf_server"))
    assert [name for name, number in names.items() if number > 1] == []


def test_no_module_of_the_server_is_everybodys() -> None:
    """The interface of all models is the spine, so more may lean on it."""
    most = {"slhf_server.models.base": 37}
    leaning = Counter(other for _, other in arrows(SERVER / "slhf_server"))
    assert {name: number for name, number in leaning.items() if number > most.get(name, 32)} == {}


def test_files_and_functions_of_server_and_client_are_short() -> None:
    for path in sources(SERVER / "slhf_server", CLIENT / "slhf"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 350, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"
