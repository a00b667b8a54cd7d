"""settings.py says what is served where nothing is named, and every other file that names it says the same."""

import re
from typing import Any

import pytest
import yaml

from slhf.bundle import BUILTIN_PREFIX
from slhf_server.builtin.weights import WEIGHTS
from slhf_server.settings.server import BUILTIN
from tests.deploy.programs import DEPLOY, ROOT

SERVED = BUILTIN.removeprefix(BUILTIN_PREFIX)
"""The model's name for clients: a built-in bundle is called as its specification."""
TRAINED = ROOT / "server" / "slhf_server" / "builtin" / "trained"


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def first_application(served: dict[str, Any]) -> str:
    """Ray's `small`: what is built in, beside a larger model."""
    bundle = served["applications"][0]["args"]["settings"]["bundle"]
    assert isinstance(bundle, str)
    return bundle


def test_it_is_built_in() -> None:
    assert BUILTIN.startswith(BUILTIN_PREFIX)
    assert SERVED in WEIGHTS or (TRAINED / SERVED).is_dir()


def test_the_charts_values_name_it() -> None:
    values = yaml.safe_load((DEPLOY / "helm" / "slhf" / "values.yaml").read_text())
    assert values["settings"]["bundle"] == BUILTIN


def test_rays_small_application_serves_it() -> None:
    service = yaml.safe_load((DEPLOY / "ray" / "rayservice.yaml").read_text())
    files = [(DEPLOY / "ray" / "serve.yaml").read_text(), service["spec"]["serveConfigV2"]]
    assert [first_application(yaml.safe_load(file)) for file in files] == [BUILTIN, BUILTIN]


def test_composes_second_server_asks_the_first_for_it_by_name() -> None:
    asked = re.findall(r"\$\{UPSTREAM_MODEL:-(.*?)\}", text("deploy/compose.yaml"))
    assert asked == [SERVED]


def test_the_example_of_the_settings_serves_it() -> None:
    assert re.findall(r"^bundle: (builtin:\S+)$", text("docs/configuration.md"), re.MULTILINE) == [BUILTIN]


def test_the_readmes_first_chat_asks_for_it() -> None:
    assert re.findall(r'model="(\S+)"', text("README.md")) == [SERVED]


@pytest.mark.parametrize("readme", ["README.md", "server/README.md"])
def test_a_readme_names_its_card_first(readme: str) -> None:
    """What a newcomer is told of quality must be told of what is served."""
    cards = re.findall(r"slhf_server/builtin/trained/([\w.-]+)/README\.md", text(readme))
    assert cards[0] == SERVED
