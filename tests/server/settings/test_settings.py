"""Where settings come from, which source wins, and how a bad one is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from slhf_server.settings.limits import RefineLimits, ServerLimits
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.reading import load_settings
from slhf_server.settings.server import ServedModel, Settings


@pytest.mark.parametrize(
    ("flag", "variable", "in_file", "expected"),
    [(5, 4, 3, 5), (None, 4, 3, 4), (None, None, 3, 3), (None, None, None, None), (5, None, 3, 5), (5, 4, None, 5)],
)
def test_flags_win_over_environment_over_file_over_default(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    flag: int | None,
    variable: int | None,
    in_file: int | None,
    expected: int | None,
) -> None:
    """For a setting of its own and for one in a section."""
    file = tmp_path / "settings.yaml"
    file.write_text("" if in_file is None else f"port: {in_file}\nlimits: {{rounds: {in_file}}}\n")
    argv = ["--config", str(file)]
    if variable is not None:
        monkeypatch.setenv("SLHF_PORT", str(variable))
        monkeypatch.setenv("SLHF_LIMITS__ROUNDS", str(variable))
    if flag is not None:
        argv += ["--port", str(flag), "--limits.rounds", str(flag)]
    settings = load_settings(argv)
    assert settings.port == (Settings().port if expected is None else expected)
    assert settings.limits.rounds == (ServerLimits().rounds if expected is None else expected)


def test_a_section_takes_each_key_from_the_strongest_source_that_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("limits: {rounds: 3, waiting: 3, running: 3}\nengine: {block_size: 16, seed: 1}\n")
    monkeypatch.setenv("SLHF_LIMITS__WAITING", "4")
    monkeypatch.setenv("SLHF_LIMITS__ROUNDS", "4")
    settings = load_settings(["--config", str(file), "--limits.rounds", "5", "--engine", "seed=2"])
    assert (settings.limits.rounds, settings.limits.waiting, settings.limits.running) == (5, 4, 3)
    assert settings.engine == {"block_size": 16, "seed": 2}


def test_flags_spell_underscores_as_hyphens() -> None:
    assert load_settings(["--limits.body-bytes", "9", "--log-level", "debug"]).limits.body_bytes == 9


def test_the_file_is_named_by_a_flag_or_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for port in (1, 2):
        (tmp_path / f"{port}.yaml").write_text(f"port: {port}")
    monkeypatch.setenv("SLHF_CONFIG", str(tmp_path / "1.yaml"))
    assert load_settings([]).port == 1
    assert load_settings(["--config", str(tmp_path / "2.yaml")]).port == 2


def test_everything_can_be_set_in_the_file(tmp_path: Path) -> None:
    settings = Settings(
        bundle="owner/name",
        port=1,
        models={"m": ServedModel(leader="none", rounds=2, limits=RefineLimits(timeout_ms=5))},
        limits=ServerLimits(rounds=3),
        speculation="off",
        engine={"max_model_len": 4096, "compilation_config": {"level": 0}},
        cache_dir=tmp_path,
    )
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude={"config"})))
    assert load_settings(["--config", str(file)]).model_dump(exclude={"config"}) == settings.model_dump(
        exclude={"config"}
    )


@pytest.mark.parametrize("flags", [["--nonsense", "1234"], ["--limits.nonsense", "1234"], ["--por", "1234"], ["1234"]])
def test_an_unknown_flag_ends_with_usage_and_names_it(capsys: pytest.CaptureFixture[str], flags: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load_settings(flags)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("usage: slhf-server ")
    assert " ".join(flags) in told.splitlines()[-1]


@pytest.mark.parametrize("variable", ["SLHF_NONSENSE", "slhf_nonsense", "SLHF_NONSENSE__ROUNDS"])
def test_an_unknown_variable_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """It may be a secret whose name was mistyped."""
    monkeypatch.setenv(variable, "1234")
    with pytest.raises(SettingsError) as refused:
        load_settings([])
    assert str(refused.value) == f"environment variable {variable}: no such setting"


@pytest.mark.parametrize(
    ("variable", "named"),
    [("SLHF_LIMITS__NONSENSE", "limits.nonsense"), ("SLHF_MODELS__MINE__NONSENSE", "models.mine.nonsense")],
)
def test_an_unknown_variable_of_a_section_is_refused_with_its_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, named: str
) -> None:
    monkeypatch.setenv(variable, "1234")
    with pytest.raises(SettingsError) as refused:
        load_settings([])
    assert str(refused.value).startswith(f"{named}: ")
    assert "1234" in str(refused.value)


def test_variables_of_the_scripts_and_of_the_client_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLHF_VENV", "SLHF_EXTRA", "SLHF_BASE_URL", "SLHF_API_KEY", "SLHF_MODEL"):
        monkeypatch.setenv(name, "something")
    assert load_settings([]) == Settings()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("nonsense: 1234", "nonsense"),
        ("1: 1234", "1: "),
        ("limits: {nonsense: 1234}", "limits.nonsense"),
        ("models: {mine: {nonsense: 1234}}", "models.mine.nonsense"),
        ("models: {mine: {limits: {running: 1234}}}", "models.mine.limits.running"),
        ("port: '1234567'", "port"),
        ("limits: 1234", "limits"),
        ("speculation: 1234", "speculation"),
        ("ping_interval_s: 1234", "ping_interval_s"),
    ],
)
def test_an_unknown_key_or_a_bad_value_in_the_file_is_refused_with_its_value(
    tmp_path: Path, content: str, named: str
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(content)
    with pytest.raises(SettingsError) as refused:
        load_settings(["--config", str(file)])
    assert named in str(refused.value)
    assert "1234" in str(refused.value)


@pytest.mark.parametrize(
    ("flags", "environment", "named", "value"),
    [
        (["--port", "70000"], {}, "port", "70000"),
        (["--port", "many"], {}, "port", "many"),
        (["--limits.rounds", "-3"], {}, "limits.rounds", "-3"),
        (["--log-level", "loud"], {}, "log_level", "loud"),
        (["--models", '{"mine": {"leader": "nobody"}}'], {}, "models.mine.leader", "nobody"),
        (["--engine", "dtype=[half"], {}, "engine.dtype", "[half"),
        ([], {"SLHF_PORT": "many"}, "port", "many"),
        ([], {"SLHF_LIMITS__TIMEOUT_MS": "soon"}, "limits.timeout_ms", "soon"),
        ([], {"SLHF_ENGINE__DTYPE": "{half"}, "engine.dtype", "{half"),
    ],
)
def test_a_bad_value_is_refused_with_its_key(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], environment: dict[str, str], named: str, value: str
) -> None:
    for variable, text in environment.items():
        monkeypatch.setenv(variable, text)
    with pytest.raises(SettingsError) as refused:
        load_settings(flags)
    assert str(refused.value).startswith(f"{named}: ")
    assert value in str(refused.value)


def test_every_bad_value_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(["--port", "many", "--limits.rounds", "few"])
    assert "port: " in str(refused.value)
    assert "limits.rounds: " in str(refused.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        (b"- port\n", "must be a mapping of settings, not list"),
        (b"port\n", "must be a mapping of settings, not text"),
        (b"limits: [\n", "line 2"),
        (b"\xff\xfe", "utf-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, problem: str) -> None:
    file = tmp_path / "settings.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        load_settings(["--config", str(file)])
    assert str(refused.value).startswith(f"config {file}: ")
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("text", "value"), [("4096", 4096), ("0.5", 0.5), ("true", True), ("half", "half"), ("[1, 2]", [1, 2])]
)
def test_engine_arguments_are_typed_alike_from_every_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, value: Any
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"engine: {{some_argument: {text}}}")
    expected = {"some_argument": value}
    assert load_settings(["--config", str(file)]).engine == expected
    monkeypatch.setenv("SLHF_ENGINE__SOME_ARGUMENT", text)
    assert load_settings([]).engine == expected


@pytest.mark.parametrize(
    "flags",
    [
        ["--engine", "max_model_len=4096", "--engine", "enforce_eager=true"],
        ["--engine", '{"max_model_len": 4096, "enforce_eager": true}'],
    ],
)
def test_engine_flags_are_pairs_or_json(flags: list[str]) -> None:
    assert load_settings(flags).engine == {"max_model_len": 4096, "enforce_eager": True}


def test_a_models_limits_replace_only_what_they_set() -> None:
    model = ServedModel(limits=RefineLimits(rounds=2))
    settings = Settings(models={"mine": model}, limits=ServerLimits(rounds=5, timeout_ms=7, max_total_tokens=9))
    limits = settings.limits_of(model)
    assert (limits.rounds, limits.timeout_ms, limits.max_total_tokens) == (2, 7, 9)
    assert settings.limits_of(ServedModel()) == settings.limits


def test_a_limit_that_a_model_sets_to_the_default_is_set() -> None:
    model = ServedModel(limits=RefineLimits(rounds=RefineLimits().rounds))
    assert Settings(limits=ServerLimits(rounds=3)).limits_of(model).rounds == RefineLimits().rounds


@pytest.mark.parametrize(
    ("content", "refused"),
    [
        ("models: {mine: {rounds: 9}}", "models.mine.rounds: 9 is above the model's limit of 8"),
        ("models: {mine: {rounds: 3, limits: {rounds: 2}}}", "models.mine.rounds: 3 is above the model's limit of 2"),
        ("models: {ok: {rounds: 0}, mine: {}}\nlimits: {rounds: 0}", "models.mine.rounds: 1 is above the model's"),
        ("models: {mine: {rounds: 9, limits: {rounds: 9}}}", None),
        ("models: {mine: {rounds: 8}}", None),
    ],
)
def test_a_model_may_not_play_more_rounds_by_default_than_its_limit(
    tmp_path: Path, content: str, refused: str | None
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(content)
    if refused is None:
        load_settings(["--config", str(file)])
        return
    with pytest.raises(SettingsError) as error:
        load_settings(["--config", str(file)])
    assert refused in str(error.value)


def test_without_models_one_is_served_by_the_bundles_name_within_the_limits() -> None:
    assert Settings().served("duo") == {"duo": ServedModel()}
    assert Settings(limits=ServerLimits(rounds=0)).served("duo")["duo"].rounds == 0


def test_the_first_model_is_the_default_one() -> None:
    models = {"z": ServedModel(), "a": ServedModel()}
    assert list(Settings(models=models).served("duo")) == ["z", "a"]


def test_the_log_shows_settings_without_secrets() -> None:
    settings = Settings(engine={"hf_token": "abc", "max_model_len": 9, "API_KEY": "def"})
    assert settings.redacted()["engine"] == {"hf_token": "***", "max_model_len": 9, "API_KEY": "***"}
    assert settings.engine["hf_token"] == "abc"
