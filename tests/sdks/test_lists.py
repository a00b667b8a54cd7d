"""What can be said about the clients' checks without installing the clients."""

import ast
import json
import re
from pathlib import Path

import pytest

from tests.sdks.clients import CLIENTS, EXAMPLES, HERE, SERVED
from tests.sdks.environments import ROOT, place_of

PIN = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*(?:\[[a-z]+\])?==[0-9][a-z0-9.]*")
PYTHON_CHECKS = sorted(HERE.glob("check_*.py"))


def parts_of(file: Path) -> set[str]:
    """What a check file can be asked for: the keywords (JavaScript: the keys) of its call of `main`."""
    if file.suffix == ".mjs":
        return set(re.findall(r"^  (\w+): \[", file.read_text(), re.MULTILINE))
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    return {word.arg or "" for call in calls if ast.unparse(call.func) == "main" for word in call.keywords}


def test_every_check_file_is_run() -> None:
    assert {client.file for client in CLIENTS if client.parts} == {*PYTHON_CHECKS, *HERE.glob("check_*.mjs")}


def test_every_part_of_a_check_file_is_asked_for() -> None:
    asked = {client.file: set(client.parts) for client in CLIENTS if client.parts}
    assert {file: parts_of(file) for file in asked} == asked
    assert set.union(*asked.values()) >= SERVED


@pytest.mark.parametrize("file", PYTHON_CHECKS, ids=lambda file: file.name)
def test_every_check_of_a_python_file_is_run(file: Path) -> None:
    tree = ast.parse(file.read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    checks = {function.name for function in functions if not function.args.args}
    listed = {
        element.id
        for node in ast.walk(tree)
        if isinstance(node, ast.List)
        for element in node.elts
        if isinstance(element, ast.Name)
    }
    assert checks <= listed


def test_examples_that_pytest_cannot_run_are_run() -> None:
    names = {client.file.name for client in CLIENTS if client.file.parent == EXAMPLES}
    assert names >= {"langchain_chat.py", "node.mjs"}


@pytest.mark.parametrize("file", sorted(HERE.glob("requirements-*.txt")), ids=lambda file: file.name)
def test_python_requirements_are_exact_versions_and_nothing_else(file: Path) -> None:
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert [line for line in lines if not PIN.fullmatch(line)] == []


@pytest.mark.parametrize("file", sorted(HERE.glob("package-*.json")), ids=lambda file: file.name)
def test_npm_requirements_are_exact_versions(file: Path) -> None:
    versions = json.loads(file.read_text())["dependencies"].values()
    assert versions
    assert [version for version in versions if not re.fullmatch(r"\d+\.\d+\.\d+", version)] == []


def test_every_list_of_requirements_is_used_and_has_a_place_of_its_own() -> None:
    lists = {*HERE.glob("requirements-*.txt"), *HERE.glob("package-*.json")}
    assert {client.environment for client in CLIENTS} == lists
    assert len({place_of(requirements) for requirements in lists}) == len(lists)


def test_the_readme_names_every_client() -> None:
    readme = " ".join((ROOT / "README.md").read_text().split()).replace("`", "")
    names = [re.split(r" \(| for ", client.name)[0] for client in CLIENTS if client.parts]
    before = {"openai 2": "openai 3 and 2", "openai 6": "openai 7 and 6", "AI SDK 6": "AI SDK 7 and 6"}
    assert [name for name in names if before.get(name, name) not in readme] == []
