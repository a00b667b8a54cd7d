"""docs/ says what the code does: its tables equal the code's; no stop reason, code, setting or metric is left out."""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import get_args

import pytest
from anthropic.resources.messages import Messages
from openai.resources.chat.completions import Completions as Chat
from openai.resources.completions import Completions
from openai.resources.responses import Responses
from pydantic import BaseModel

from slhf.errors import ERRORS
from slhf.wire import RefineOptions, StopReason
from slhf_server.access.admission import Admission
from slhf_server.access.keys import KeyEntry, Keyring
from slhf_server.api.anthropic.message_parameters import COUNT_TOKENS, MESSAGES
from slhf_server.api.openai.parameters import CHAT, COMPLETIONS, RESPONSES
from slhf_server.api.parameter import Parameter, rows
from slhf_server.errors import RequestError
from slhf_server.models.upstream.counters import UpstreamMetrics
from slhf_server.observability.metrics import LATENCY, Metrics
from slhf_server.settings.endpoints import RemoteEngineSettings, UpstreamSettings
from slhf_server.settings.judging import JudgeSettings, RewardSettings
from slhf_server.settings.profiles import Profile
from slhf_server.settings.reading import load_settings
from slhf_server.settings.server import ServedModel, Settings
from slhf_server.settings.shadowing import ShadowSettings
from slhf_server.verdicts.shadow_metrics import VerdictMetrics

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def api() -> str:
    return (DOCS / "api.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def configuration() -> str:
    return (DOCS / "configuration.md").read_text(encoding="utf-8")


def setting_rows(model: type[BaseModel], flag: str = "--", variable: str = "SLHF_") -> Iterator[str]:
    """How each setting's row begins: flag, environment variable, default."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from setting_rows(field.annotation, f"{flag}{name}.", f"{variable}{name.upper()}__")
            continue
        row = f"| `{flag}{name.replace('_', '-')}` | `{variable}{name.upper()}` | "
        if field.default_factory is not None:  # differs from machine to machine
            yield row
        else:
            yield f"{row}`{'none' if field.default is None else json.dumps(field.default)}` |"


def error_codes(error: type[RequestError] = RequestError) -> Iterator[str]:
    """The codes of an error class and of every class below it."""
    if error.code is not None:
        yield error.code
    for kind in error.__subclasses__():
        yield from error_codes(kind)


def left_out(names: Iterable[str], text: str) -> list[str]:
    """Names that the text does not mention as code."""
    return [name for name in names if f"`{name}`" not in text]


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("parameters", CHAT),
        ("completions", COMPLETIONS),
        ("responses", RESPONSES),
        ("messages", MESSAGES),
        ("count_tokens", COUNT_TOKENS),
    ],
)
def test_the_parameter_tables_are_the_codes(api: str, name: str, table: dict[str, Parameter]) -> None:
    shown = api.split(f"<!-- {name}:begin -->\n")[1].split(f"<!-- {name}:end -->")[0]
    assert shown.splitlines() == list(rows(table))


@pytest.mark.parametrize(
    ("create", "table"),
    [
        (Chat.create, CHAT),
        (Completions.create, COMPLETIONS),
        (Responses.create, RESPONSES),
        (Messages.create, MESSAGES),
        (Messages.count_tokens, COUNT_TOKENS),
    ],
)
def test_every_parameter_that_the_sdk_knows_has_a_row(
    create: Callable[..., object], table: dict[str, Parameter]
) -> None:
    of_the_sdk_itself = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
    of_the_sdk_itself |= {"output_format"}  # Anthropic's, which it sends as output_config
    assert set(inspect.signature(create).parameters) - of_the_sdk_itself - set(table) == set()


def test_every_stop_reason_is_explained(api: str) -> None:
    assert left_out(get_args(StopReason), api) == []


def test_every_error_code_is_explained(api: str) -> None:
    assert left_out({*error_codes(), "internal_error"}, api) == []


def test_the_table_of_errors_is_the_codes(api: str) -> None:
    found = re.findall(r"^\| (\d{3}) \| `(\w+)` \| `(\w+)` \|", api, re.MULTILINE)
    assert {(int(status), kind, code) for status, kind, code in found} == {
        (row.status, row.type, code) for code, row in ERRORS.items()
    }


def test_every_option_of_a_refinement_is_explained(api: str) -> None:
    assert left_out(RefineOptions.model_fields, api) == []


def test_every_metric_is_explained(api: str) -> None:
    metrics = Metrics()
    UpstreamMetrics(metrics.registry, LATENCY)
    VerdictMetrics(metrics.registry, metrics.verdicts)
    metrics.watch(Admission(1, 1), ["name"])
    metrics.watch_keys(Keyring(Settings()))
    families = [f"{one.name}_total" if one.type == "counter" else one.name for one in metrics.registry.collect()]
    assert left_out(families, api) == []


def test_every_setting_stands_in_the_table_with_its_default(configuration: str) -> None:
    lines = configuration.splitlines()
    assert [row for row in setting_rows(Settings) if not any(line.startswith(row) for line in lines)] == []


def test_every_key_of_a_section_that_others_name_and_of_an_api_key_is_explained(configuration: str) -> None:
    servers = (UpstreamSettings, RemoteEngineSettings, JudgeSettings, RewardSettings)
    sections = (ServedModel, ShadowSettings, *servers, KeyEntry, Profile)
    assert left_out([name for section in sections for name in section.model_fields], configuration) == []


def test_the_example_configurations_are_read(
    configuration: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLHF_UPSTREAMS__OPENAI__API_KEY", "sk-1")
    file = tmp_path / "slhf.yaml"
    profiles, upstream, remote, judges, whole = re.findall(r"```yaml\n(.*?)```", configuration, re.DOTALL)
    file.write_text(upstream, encoding="utf-8")
    assert load_settings(["--config", str(file)]).upstreams["openai"].key() is not None
    monkeypatch.undo()
    file.write_text(profiles, encoding="utf-8")
    assert load_settings(["--config", str(file)]).models["assistant-plain"].profile == "plain"
    file.write_text(remote, encoding="utf-8")
    assert load_settings(["--config", str(file)]).engine_names == ["gpu"]
    file.write_text(judges, encoding="utf-8")
    assert [judge.kind for judge in load_settings(["--config", str(file)]).judges.values()] == [
        *("upstream", "engine", "own_answers", "reward"),
    ]
    file.write_text(whole, encoding="utf-8")
    settings = load_settings(["--config", str(file)])
    assert len(settings.models) == 2
    assert settings.engine


def test_the_readmes_configurations_are_read(tmp_path: Path) -> None:
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    vllm, provider = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    file = tmp_path / "slhf.yaml"
    file.write_text(vllm, encoding="utf-8")
    assert load_settings(["--config", str(file)]).engine_names == ["gpu"]
    file.write_text(provider, encoding="utf-8")
    settings = load_settings(["--config", str(file)])
    assert settings.models["assistant"].leader in settings.upstreams
