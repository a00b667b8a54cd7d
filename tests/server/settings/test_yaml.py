"""The YAML files of the server, as people write them: the configuration and the keys."""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, JsonValue, SecretStr

from slhf_server.access.keys import Keyring
from slhf_server.settings.limits import RefineLimits
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.reading import load_settings
from slhf_server.settings.server import ServedModel, Settings
from slhf_server.settings.values import given
from slhf_server.settings.yaml_text import NotYAML, read, typed

SECRET = "sk-a-secret-that-nobody-may-see"
DIGITS = "1" * 64


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load(content: str | bytes, **settings: Any) -> Settings:
        file = tmp_path / "settings.yaml"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return load_settings(["--config", str(file)])

    return load


def model(name: str) -> dict[str, ServedModel]:
    return {name: ServedModel()}


def upstream(key: str) -> str:
    return f"upstreams: {{a: {{base_url: 'http://a/v1', model: m, {key}}}}}"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("metrics_by_key: no", {"metrics_by_key": "off"}),
        ("metrics_by_key: yes\nadmin_key: k", {"metrics_by_key": "on", "admin_key": "k"}),
        ("speculation: off", {"speculation": "off"}),
        ("speculation: no", {"speculation": "off"}),
        ("speculation: False", {"speculation": "off"}),
        ("speculation: 'off'", {"speculation": "off"}),
        ("speculation: OFF", {"speculation": "off"}),
        ("speculation: on", {"speculation": "on"}),
        ("speculation: yes", {"speculation": "on"}),
        ("speculation: TRUE", {"speculation": "on"}),
        ("speculation: n", {"speculation": "off"}),
        ("speculation: auto", {"speculation": "auto"}),
        ("speculation: ~", {}),
        ("log_content: yes", {"log_content": True}),
        ("log_content: On", {"log_content": True}),
        ("log_content: no", {"log_content": False}),
        ("log_content: 'off'", {"log_content": False}),
        ("limits:", {}),
        ("limits: ~\nengine:\nmodels: null\nupstreams: Null", {}),
        ("limits:\n  rounds:\n  waiting: 3", {"limits": {"waiting": 3}}),
        ("host:\nport:\nbundle:\ncors_origins:\napi_keys:\napi_keys_file:\nlog_level:\notlp_endpoint:", {}),
        ("cors_origins: [null, 'http://a', ]", {"cors_origins": ["http://a"]}),
        ("cors_origins:\n- http://a\n-\n", {"cors_origins": ["http://a"]}),
        ("models: {assistant: }", {"models": model("assistant")}),
        ("models:\n  assistant:\n  other: ~", {"models": model("assistant") | model("other")}),
        ("models: {a: {limits: , leader: , rounds: null}}", {"models": model("a")}),
        ("models: {a: {limits: {rounds: }}}", {"models": {"a": ServedModel(limits=RefineLimits())}}),
        ("models: {4.1: {rounds: 1}}", {"models": {"4.1": {"rounds": 1}}}),
        ("models: {4.10: }", {"models": model("4.10")}),
        ("models: {yes: , no: , on: , Off: }", {"models": model("yes") | model("no") | model("on") | model("Off")}),
        ("models: {null: , ~: }", {"models": model("null") | model("~")}),
        ("models: {true: }", {"models": model("true")}),
        (
            "models: {010: , 0x10: , 1e3: , 1_000: }",
            {"models": model("010") | model("0x10") | model("1e3") | model("1_000")},
        ),
        ("models: {2024-01-01: , 12:30:45: }", {"models": model("2024-01-01") | model("12:30:45")}),
        ("models: {.inf: , .nan: , =: }", {"models": model(".inf") | model(".nan") | model("=")}),
        ("bundle: 4.10", {"bundle": "4.10"}),
        ("bundle: 123", {"bundle": "123"}),
        ("bundle: 2024-01-01", {"bundle": "2024-01-01"}),
        ("bundle: yes", {"bundle": "yes"}),
        ("bundle: true", {"bundle": "true"}),
        ("bundle: !!str 123", {"bundle": "123"}),
        ("bundle: |\n  owner/name\n", {"bundle": "owner/name"}),
        ("bundle: 12:30:45", {"bundle": "12:30:45"}),
        ("api_keys_file: 0123", {"api_keys_file": Path("0123")}),
        ("port: 0o17500", {"port": 8000}),
        ("port: 0x1F40", {"port": 8000}),
        ("port: 08000", {"port": 8000}),
        ("port: '8000'", {"port": 8000}),
        ("port: !!int 8000", {"port": 8000}),
        ("limits: {body_bytes: 4_194_304}", {"limits": {"body_bytes": 4 << 20}}),
        ("limits: {body_bytes: 4.194304e+06}", {"limits": {"body_bytes": 4 << 20}}),
        ("limits: {body_bytes: 1e6}", {"limits": {"body_bytes": 1_000_000}}),
        ("grace_period_s: 1e1", {"grace_period_s": 10.0}),
        ("grace_period_s: .5", {"grace_period_s": 0.5}),
        (
            "limits: &x {rounds: 2}\nmodels: {a: {limits: *x}}",
            {"limits": {"rounds": 2}, "models": {"a": {"limits": {"rounds": 2}}}},
        ),
        (
            "models:\n  a: &a {rounds: 1, leader: none}\n  b: {<<: *a, rounds: 2}",
            {"models": {"a": {"rounds": 1, "leader": "none"}, "b": {"rounds": 2, "leader": "none"}}},
        ),
        ("port:\t1\t# after tabs\nlimits:\t\n  rounds: 2\t\n", {"port": 1, "limits": {"rounds": 2}}),
        ('{\n\t"port": 1,\n\t"limits": {\n\t\t"rounds":\t2\n\t}\n}\n', {"port": 1, "limits": {"rounds": 2}}),
        ("cors_origins:\n-\thttp://a\t\n", {"cors_origins": ["http://a"]}),
        ("# nothing\n", {}),
        ("---\nport: 1\n...\n", {"port": 1}),
        ("%YAML 1.1\n---\nport: 1\n", {"port": 1}),
        ("\ufeffport: 1\r\nlimits:\r\n  rounds: 2\r\n", {"port": 1, "limits": {"rounds": 2}}),
        ('{"port": 1, "limits": {"rounds": 2}}', {"port": 1, "limits": {"rounds": 2}}),
    ],
)
def test_a_spelling_that_people_use_means_what_they_mean(load: Any, content: str, expected: dict[str, Any]) -> None:
    assert load(content).model_dump(exclude={"config"}) == Settings(**expected).model_dump(exclude={"config"})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4.1", "4.1"),
        ("4.10", "4.10"),
        ("123", "123"),
        ("yes", "yes"),
        ("'4.10'", "4.10"),
    ],
)
def test_an_upstreams_model_is_taken_as_written(load: Any, text: str, value: str) -> None:
    assert load(upstream("max_retries: 0").replace("model: m", f"model: {text}")).upstreams["a"].model == value


def test_a_key_of_digits_is_a_key(load: Any) -> None:
    assert load(upstream("api_key: 0123456789")).upstreams["a"].key().get_secret_value() == "0123456789"
    assert load("api_keys: web=0123").api_keys.get_secret_value() == "web=0123"


def test_an_upstreams_null_is_not_given_and_null_alone_misses_its_address(load: Any) -> None:
    assert load(upstream("timeout_s: , api_key: ~, max_retries: null")).upstreams["a"].max_retries == 2
    with pytest.raises(SettingsError, match=r"^upstreams\.a\.base_url: Field required"):
        load("upstreams: {a: }")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("Off", False),
        ("true", True),
        ("'yes'", "yes"),
        ("y", "y"),
        ("4_096", 4096),
        ("1.073741824e+09", 1 << 30),
        ("1e-5", 1e-5),
        ("0.90", 0.9),
        ("-1", -1),
        ("0o17", 15),
        ("010", 10),
        ("'010'", "010"),
        ('"4096"', "4096"),
        ("2024-01-01", "2024-01-01"),
        ("12:30:45", "12:30:45"),
        ("8000:8000", "8000:8000"),
        ("1.2.3", "1.2.3"),
        ("0x1g", "0x1g"),
        ("1_", "1_"),
        ("~", None),
        ("", None),
        ("half", "half"),
        ("{a: {b: [1, '1', off, ~]}}", {"a": {"b": [1, "1", False, None]}}),
    ],
)
def test_engine_arguments_have_the_types_that_vllm_expects(
    load: Any, monkeypatch: pytest.MonkeyPatch, text: str, value: Any
) -> None:
    """vLLM's own configuration files are YAML 1.1, so yes and no are truths there."""
    for argument, shape in (("x", value), ("nested", {"x": value})):
        content = f"engine: {{x: {text}}}" if argument == "x" else f"engine: {{nested: {{x: {text}}}}}"
        read = load(content).engine
        assert read == {argument: shape}
        assert repr(read) == repr({argument: shape})  # True is no 1, and no subclass of str gets there
    if text:
        monkeypatch.setenv("SLHF_ENGINE__X", text)
        assert repr(load_settings([]).engine) == repr({"x": value})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("port: 1\nport: 2", "not YAML at line 2: the key 'port' stands there twice"),
        ("models:\n  a: {rounds: 1}\n  b: {}\n  a: {rounds: 2}", "not YAML at line 4: the key 'a' stands there twice"),
        ("port: 1\n---\nport: 2", "not YAML at line 2: a second document (---) begins"),
        ("limits:\n\trounds: 1", "not YAML at line 2: found character '\\t' that cannot start any token"),
        ("? [a]\n: 1", "not YAML at line 1: a key must be text"),
        ("bundle: !!python/object:os.system x", "not YAML at line 1: an unknown tag"),
        ("bundle: !secret x", "not YAML at line 1: an unknown tag"),
        ("port: !!timestamp 2024-01-01", "not YAML at line 1: an unknown tag"),
        ("engine: &a {x: *a}", "not YAML at line 1: bad alias, tag or key"),
        ("engine: *nowhere", "not YAML at line 1: bad alias, tag or key"),
        ("limits: {<<: 1}", "not YAML at line 1: bad alias, tag or key"),
        ("port: 1\nhost: \x07", "not YAML at line 2: the character U+0007 is not allowed"),
        ("engine: " + "[" * 5000, "not YAML that can be read: nested too deeply"),
        ("config: other.yaml", "config: a file does not name another (got 'other.yaml')"),
        ("- port: 1", "must be a mapping of settings, not list"),
        ("'port: 1'", "must be a mapping of settings, not text"),
        ("port 1", "must be a mapping of settings, not text"),
    ],
)
def test_a_broken_file_is_one_line_with_the_place(load: Any, tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(content)
    assert str(refused.value) == f"config {tmp_path / 'settings.yaml'}: {said}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("limits: {body_bytes: 4MiB}", "limits.body_bytes: Input should be a valid integer"),
        ("limits: {body_bytes: 1.5}", "limits.body_bytes: Input should be a valid integer, got a number with a frac"),
        ("limits: {rounds: true}", "limits.rounds: Input should be a valid integer"),
        ("limits: []", "limits: Input should be a valid dictionary"),
        ("limits: off", "limits: Input should be a valid dictionary"),
        ("models: [a]", "models: Input should be a valid dictionary"),
        ("models: {a: off}", "models.a: Input should be a valid dictionary"),
        ("engine: off", "engine: Input should be a valid dictionary"),
        ("cors_origins: http://a", "cors_origins: Input should be a valid list"),
        ("log_content: maybe", "log_content: Input should be a valid boolean"),
        ("speculation: maybe", "speculation: Input should be 'auto', 'on' or 'off' (got 'maybe')"),
        ("speculation: [off]", "speculation: Input should be 'auto', 'on' or 'off'"),
        ("grace_period_s: .inf", "grace_period_s: Input should be a finite number"),
        ("grace_period_s: .nan", "grace_period_s: Input should be a finite number"),
        ("write_timeout_s: 1e300", "write_timeout_s: Input should be less than or equal to 86400"),
        ("host: ''", "host: String should have at least 1 character"),
        ("bundle: ' '", "bundle: "),
        ("port: 8000:8000", "port: Input should be a valid integer"),
        ("port: 12:30:45", "port: Input should be a valid integer"),
        ("bundle: [a]", "bundle: Input should be a valid string"),
        ("Port: 1", "Port: Extra inputs are not permitted (got '1')"),
        ("log-level: info", "log-level: Extra inputs are not permitted"),
        ("limit:", "limit: Extra inputs are not permitted"),
        ("models: {a: {round: }}", "models.a.round: Extra inputs are not permitted"),
    ],
)
def test_a_bad_value_in_the_file_is_one_line_that_begins_with_its_key(load: Any, content: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(content)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [
        f"api_kyes: web={SECRET}",
        f"api_keys: [web={SECRET}]",
        f"api_keys: {SECRET}\napi_keys: x",
        f"api_keys: *{SECRET}",
        f"api_keys: !{SECRET} x",
        f"api_keys: !{SECRET}!x y",
        f"api_keys: '{SECRET}",
        f"{SECRET}: 1\n{SECRET}: 2",
        f"engine: {{hf_token: '{SECRET}'",
        f"engine: {{api_key: {SECRET}, <<: 1}}",
        f"otlp_endpoint: htp://me:{SECRET}@a",
        f"otlp_endpoint: me:{SECRET}@a",
        f"otlp_endpoint: ftp://a/?token={SECRET}",
        f"cors_origins: ['https://me:{SECRET}@a']",
        f"models: {{a: {{apikey: {SECRET}}}}}",
        f"models: {{a: [{{token: {SECRET}}}]}}",
        f"limits: {{a: {{b: {SECRET}}}}}",
        f"engine: [{{hf_token: {SECRET}}}]",
        f"upstreams: {{a: {{api_kye: {SECRET}}}}}",
        f"upstreams: {{a: {{base_url: 'http://me:{SECRET}@a', model: m}}}}",
    ],
)
def test_no_refusal_shows_a_secret(load: Any, content: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(content)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("flag", [f"hf_token=[{SECRET}", f"api_key=a: b: {SECRET}", f"x=[http://me:{SECRET}@a"])
def test_an_engine_argument_that_is_no_yaml_is_named_without_a_secret(flag: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(["--engine", flag])
    assert str(refused.value).startswith(f"engine.{flag.partition('=')[0]}: not YAML at line 1: ")
    assert SECRET not in str(refused.value)


def test_a_file_is_found_in_the_users_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "slhf.yaml").write_text("api_keys_file: ~/keys.yaml\ncache_dir: ~/cache")
    settings = load_settings(["--config=~/slhf.yaml"])
    assert (settings.api_keys_file, settings.cache_dir) == (tmp_path / "keys.yaml", tmp_path / "cache")


def test_a_pipe_is_read_as_a_file(tmp_path: Path) -> None:
    """`--config <(...)` of a shell."""
    reader, writer = os.pipe()
    os.write(writer, b"port: 7")
    os.close(writer)
    try:
        assert load_settings(["--config", f"/dev/fd/{reader}"]).port == 7
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        ("folder", "Is a directory"),
        (b"port: \xe9", "not utf-8 text: byte 7 is no part of any"),
        ("port: 1".encode("utf-16"), "not utf-8 text: byte 1 is no part of any"),
    ],
)
@pytest.mark.parametrize("setting", ["config", "api_keys_file"])
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, setting: str, content: str | bytes | None, said: str
) -> None:
    path = tmp_path / "file"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        Keyring(load_settings([f"--{setting.replace('_', '-')}", str(path)]))
    assert str(refused.value) == f"{setting} {path}: {said}"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.mark.parametrize(
    ("entry", "name", "limits"),
    [
        (f"name: 4.10\n  sha256: '{digest('k')}'", "4.10", (None, None)),
        (f"name: yes\n  sha256: {digest('k')}", "yes", (None, None)),
        (f"name: 007\n  sha256: {digest('k')}\n  concurrency: 1_0", "007", (None, 10)),
        (f"name: 2024-01-01\n  sha256: {digest('k')}\n  requests_per_minute: '60'", "2024-01-01", (60, None)),
        (f"name: null\n  sha256: {digest('k')}", None, (None, None)),
        (f"name: a\n  sha256: {digest('k').upper()}\n  concurrency: 0x10", "a", (None, 16)),
        (f"name: >\n    a\n  sha256: |\n    {digest('k')}\n  requests_per_minute: 1e2", "a", (100, None)),
        (f"name: 'a '\n  sha256:\t{digest('k')}\t# tabs", "a", (None, None)),
        (f"name: a\n  sha256: {digest('k')}\n  requests_per_minute: 100\n  concurrency: ~", "a", (100, None)),
    ],
)
def test_entries_of_the_keys_file_are_read_as_written(
    tmp_path: Path, entry: str, name: str | None, limits: tuple[int | None, int | None]
) -> None:
    file = tmp_path / "keys.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + f"- {entry}\n".replace("\n", "\r\n").encode())
    settings = Settings(api_keys_file=file)
    if name is None:
        with pytest.raises(SettingsError, match="entry 1: name: Input should be a valid string"):
            Keyring(settings)
        return
    key = Keyring(settings).key_of(b"Bearer k").entry
    assert (key.name, (key.requests_per_minute, key.concurrency)) == (name, limits)


def test_a_hash_of_digits_alone_is_a_hash(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(f"- name: a\n  sha256: {DIGITS}\n- name: b\n  sha256: 1e{DIGITS[2:]}\n")
    assert len(Keyring(Settings(api_keys_file=file))) == 2


@pytest.mark.parametrize("content", ["- {name: a, name: b}", "- a: 1\n--- x", "- !x {}", "- {<<: 1}"])
def test_a_keys_file_is_refused_with_the_place(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(content)
    with pytest.raises(SettingsError, match="^api_keys_file .*: not YAML at line [12]: "):
        Keyring(Settings(api_keys_file=file))


class Extras(BaseModel):
    """Kinds of settings that hold what is passed on, or names of others."""

    body: dict[str, JsonValue] = {}
    headers: dict[str, SecretStr] = {}
    omit: tuple[str, ...] = ()
    counts: list[int] = []


def test_a_mapping_that_is_passed_on_has_types_and_one_of_texts_has_none() -> None:
    body = "{a: 1, b: '1', c: on, d: [~, 1e-5], e: {f: }}"
    text = f"{{body: {body}, headers: {{x: 007, y: }}, omit: [4.10, yes, ], counts: [1_0]}}"
    assert given(read(text), Extras.model_fields) == {
        "body": {"a": 1, "b": "1", "c": True, "d": [None, 1e-5], "e": {"f": None}},
        "headers": {"x": "007"},
        "omit": ["4.10", "yes"],
        "counts": ["1_0"],
    }


@pytest.mark.parametrize(
    "text", ['{"x": "4096", "y": {"z": "yes"}}', '{"x": "4096", "y": {"z": "yes"}, "hf_token": "0"}']
)
def test_strings_of_json_in_the_environment_stay_text(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SLHF_ENGINE", text)
    assert load_settings([]).engine == json.loads(text)


def test_one_alias_may_stand_in_several_places_and_merge_into_several() -> None:
    text = "a: &a {x: 1}\nb: {k: &c {<<: *a, x: 2}, <<: *c}\nd: {<<: [*a, *c], y: 3}\ne: *c"
    assert typed(read(text)) == {
        "a": {"x": 1},
        "b": {"k": {"x": 2}, "x": 2},
        "d": {"x": 1, "y": 3},
        "e": {"x": 2},
    }


@pytest.mark.parametrize(
    "text", ["!!map 1", "!!seq {a: 1}", "!!str [a]", "!!int [a]", "!!null {a: 1}", "! x", "!!float x"]
)
def test_a_tag_that_does_not_fit_ends_in_no_other_error(text: str) -> None:
    with contextlib.suppress(NotYAML):
        typed(read(text))
