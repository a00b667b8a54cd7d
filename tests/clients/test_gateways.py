"""docs/gateways.md shows configurations of other programs: what can be said of them without these programs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from slhf import integrations
from slhf.wire import RefineRequest
from slhf_server.settings.reading import load_settings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "gateways.md").read_text(encoding="utf-8")
YAML = [list(yaml.safe_load_all(block)) for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)]


def test_the_guardrail_of_the_page_is_there_and_its_options_are_the_contracts() -> None:
    (settings,) = (
        documents[0]["guardrails"][0]["litellm_params"] for documents in YAML if "guardrails" in documents[0]
    )
    module, _, name = settings["guardrail"].removeprefix("slhf.integrations.").partition(".")
    source = (Path(integrations.__file__).parent / f"{module}.py").read_text(encoding="utf-8")
    assert f"class {name}(" in source
    RefineRequest.model_validate({"prompt": "Why?", "draft": "So.", **settings["refine"]})


def test_every_program_is_led_to_this_server() -> None:
    programs = [documents for documents in YAML if "upstreams" not in documents[0]]
    assert len(programs) == 5
    assert all(re.search(r"127\.0\.0\.1:8000|port: 8000|'port': 8000", str(documents)) for documents in programs)


def test_the_page_s_settings_of_this_server_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (settings,) = (documents[0] for documents in YAML if "upstreams" in documents[0])
    file = tmp_path / "slhf.yaml"
    file.write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("SLHF_UPSTREAMS__CLOUD__API_KEY", "secret")
    assert load_settings(["--config", str(file)]).models["assistant"].leader == "cloud"


def test_n8n_sends_a_body_of_the_contract() -> None:
    (block,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (node,) = json.loads(block)["nodes"]
    written = re.search(r"JSON\.stringify\(\{(.*)\}\)", node["parameters"]["jsonBody"])
    assert written
    pairs = dict(pair.strip().split(": ") for pair in written[1].split(","))
    body: dict[str, Any] = {key: "text" if value.startswith("$") else json.loads(value) for key, value in pairs.items()}
    RefineRequest.model_validate(body)
