import fcntl
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LISTING = """\
:env:.cert='/certs/bundle.crt'
:env:.default-timeout='180'
:env:.find-links='/wheels ~/more'
global.cert='/certs/other.crt'
global.extra-index-url='\\nfile:///mirror/simple\\nfile:///more/simple'
global.index-url='file:///main/simple'
download.index-url='file:///ignored/simple'
install.trusted-host='one.test two.test'
"""


@pytest.fixture
def stamp(environment: ModuleType) -> Any:
    return environment.Stamp(purpose="serve", extra="cpu", python="3.11.7 /python", place="/venv", inputs="abc")


def test_uv_looks_where_pip_looks(environment: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/me")
    assert environment.uv_settings(environment.pip_configuration(LISTING), {}) == {
        "UV_DEFAULT_INDEX": "file:///main/simple",
        "UV_INDEX": "file:///mirror/simple file:///more/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels,/me/more",
        "UV_INSECURE_HOST": "one.test two.test",
        "UV_HTTP_TIMEOUT": "180",
        "SSL_CERT_FILE": "/certs/bundle.crt",
    }


def test_an_unconfigured_pip_leaves_uv_alone(environment: ModuleType) -> None:
    assert environment.uv_settings(environment.pip_configuration(""), {}) == {}
    assert environment.flags({}) == []


def test_what_the_user_set_for_uv_stays(environment: ModuleType) -> None:
    pip = environment.pip_configuration(LISTING)
    chosen = {"UV_INDEX_URL": "a", "UV_EXTRA_INDEX_URL": "b", "UV_FIND_LINKS": "c", "SSL_CERT_FILE": "d"}
    assert set(environment.uv_settings(pip, chosen)) == {"UV_INSECURE_HOST", "UV_HTTP_TIMEOUT"}


def test_variables_win_over_the_install_section_and_that_over_the_global_one(environment: ModuleType) -> None:
    listing = [":env:.proxy='env'", "install.proxy='install'", "install.cert='install'", "global.cert='global'"]
    assert environment.pip_configuration("\n".join(listing)) == {"proxy": "env", "cert": "install"}


def test_a_proxy_of_pip_is_used_unless_one_is_set_for_every_program(environment: ModuleType) -> None:
    pip = {"proxy": "proxy.test:3128"}
    both = {"HTTP_PROXY": "proxy.test:3128", "HTTPS_PROXY": "proxy.test:3128"}
    assert environment.uv_settings(pip, {}) == both
    assert environment.uv_settings(pip, {"all_proxy": "other"}) == {}


def test_pip_without_an_index_means_uv_without_one(environment: ModuleType) -> None:
    assert environment.flags({"no-index": "true"}) == ["--no-index"]


def test_real_pip_lists_its_configuration_as_we_read_it(environment: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nextra-index-url =\n    file:///a/simple\n    file:///b/simple\n[install]\nfind-links = x\n"
    )
    command = [sys.executable, "-m", "pip", "config", "list"]
    variables = {"PIP_CONFIG_FILE": str(file), "PIP_TIMEOUT": "7", "HOME": str(tmp_path)}
    listing = subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout
    pip = environment.pip_configuration(listing)
    assert (pip["extra-index-url"].split(), pip["find-links"], pip["timeout"]) == (
        ["file:///a/simple", "file:///b/simple"],
        "x",
        "7",
    )


def test_an_environment_serves_what_it_was_made_for(stamp: Any) -> None:
    assert stamp.serves(stamp)
    purposes = [replace(stamp, purpose=purpose) for purpose in ("serve", "train", "test")]
    for place, have in enumerate(purposes):
        assert [have.serves(wanted) for wanted in purposes] == [at <= place for at in range(3)]
    image = replace(stamp, purpose="image")
    assert not any(image.serves(other) or other.serves(image) for other in purposes)


def test_what_trains_also_serves_what_it_trained(environment: ModuleType) -> None:
    """docs/training.md makes the folder with `train`; `scripts/serve` is then content with it."""
    asked = environment.requirements("train", "cpu")
    assert asked == ["-e", "clients/python", "-e", "server[cpu]", "-e", "training[evaluate]"]


@pytest.mark.parametrize("field", ["extra", "python", "place", "inputs"])
def test_an_environment_serves_nothing_that_differs(stamp: Any, field: str) -> None:
    assert not stamp.serves(replace(stamp, **{field: "other"}))


def test_only_changed_inputs_and_purposes_are_updated_in_place(stamp: Any) -> None:
    assert stamp.can_become(replace(stamp, inputs="other", purpose="test"))
    for field in ("extra", "python", "place"):
        assert not stamp.can_become(replace(stamp, **{field: "other"}))


def test_an_interpreter_is_the_same_one_by_each_of_its_names(root: Path, tmp_path: Path) -> None:
    """`python3` of the system and that of an activated environment, which knows the file that the name leads to."""
    script, alias = root / "scripts" / "environment.py", tmp_path / "python3"
    alias.symlink_to(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")
    told = f"import runpy; print(runpy.run_path({str(script)!r})['interpreter']())"
    names = [
        subprocess.run([python, "-c", told], capture_output=True, text=True, check=True).stdout
        for python in (str(alias), str(alias.resolve()), sys.executable)
    ]
    assert len(set(names)) == 1, names


def test_a_stamp_comes_back_as_written(environment: ModuleType, stamp: Any, tmp_path: Path) -> None:
    file = tmp_path / "stamp.json"
    environment.write_stamp(file, stamp)
    assert environment.read_stamp(file) == stamp
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"purpose": "serve", "colour": "red"}'])
def test_a_broken_stamp_is_none(environment: ModuleType, tmp_path: Path, text: str) -> None:
    file = tmp_path / "stamp.json"
    file.write_text(text)
    assert environment.read_stamp(file) is None


def test_the_digest_follows_every_byte(environment: ModuleType, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("ab")
    two.write_text("c")
    before = environment.digest([one, two])
    one.write_text("a")
    two.write_text("bc")
    assert environment.digest([one, two]) != before
    assert all(file.is_file() for file in environment.INPUTS)


def test_a_folder_that_is_not_ours_is_left_alone(environment: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(environment.Failure, match="was not made by"), environment.locked(tmp_path):
        pass
    assert (tmp_path / "letter.txt").exists()


def test_one_process_at_a_time_holds_the_folder(environment: ModuleType, tmp_path: Path) -> None:
    with environment.locked(tmp_path / "venv"):
        with (tmp_path / "venv" / "slhf.lock").open() as second, pytest.raises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_emptying_keeps_the_lock_and_follows_no_links(environment: ModuleType, tmp_path: Path) -> None:
    outside, place = tmp_path / "outside", tmp_path / "venv"
    outside.mkdir()
    (outside / "kept").touch()
    with environment.locked(place):
        (place / "lib").mkdir()
        (place / "lib64").symlink_to(outside)
        environment.empty(place)
    assert [entry.name for entry in place.iterdir()] == ["slhf.lock"]
    assert (outside / "kept").exists()


def test_the_extra_can_be_forced(environment: ModuleType) -> None:
    assert environment.chosen_extra({"SLHF_EXTRA": "gpu"}) == "gpu"
    with pytest.raises(environment.Failure, match="SLHF_EXTRA=tpu: say cpu, gpu, gateway"):
        environment.chosen_extra({"SLHF_EXTRA": "tpu"})


@pytest.mark.parametrize(("prints", "extra"), [("GPU 0: NVIDIA H200", "gpu"), ("No devices found.", "cpu")])
def test_the_gpu_extra_is_for_machines_that_list_a_gpu(
    environment: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prints: str, extra: str
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{prints}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.chosen_extra({}) == extra


def test_every_pin_that_is_looked_up_is_there(environment: ModuleType) -> None:
    for name in ("uv", "torch", environment.MODEL):
        assert environment.pinned(name).startswith(f"{name}==")
    with pytest.raises(environment.Failure, match="no pin of nonesuch"):
        environment.pinned("nonesuch")


def test_no_suitable_python_is_said_with_a_remedy(root: Path) -> None:
    command = [str(root / "scripts" / "environment"), "serve"]
    done = subprocess.run(command, env={"PYTHON": "false", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13" in done.stderr
    assert "apt install" in done.stderr


def test_a_python_without_venv_names_the_package_to_install(root: Path, tmp_path: Path) -> None:
    python = tmp_path / "python-without-venv"
    python.write_text("#!/bin/sh\necho 3.12\nexit 4\n")
    python.chmod(0o755)
    command = [str(root / "scripts" / "environment"), "serve"]
    variables = {"PYTHON": str(python), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 1
    assert "apt install python3.12-venv" in done.stderr


def test_help_names_every_variable(root: Path) -> None:
    command = [str(root / "scripts" / "environment"), "--help"]
    variables = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    text = subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout
    assert all(name in text for name in ("PYTHON", "SLHF_VENV", "SLHF_EXTRA"))


def test_a_gateway_is_served_by_every_environment_and_becomes_any(stamp: Any) -> None:
    gateway = replace(stamp, extra="gateway")
    for extra in ("cpu", "gpu", "gateway"):
        assert replace(stamp, extra=extra, purpose="test").serves(gateway)
        assert gateway.can_become(replace(stamp, extra=extra))
    assert not gateway.serves(stamp)
    assert not stamp.can_become(gateway)


def test_a_gateway_installs_no_engine(environment: ModuleType) -> None:
    assert environment.requirements("serve", "gateway") == ["-e", "clients/python", "-e", "server[gateway]"]
    assert environment.requirements("image", "gateway") == ["./clients/python", "./server[gateway,redis]"]


ENGINE = '{"gpu": {"base_url": "http://127.0.0.1:9/v1", "model": "m", "tokenizer": "t"}}'


@pytest.mark.parametrize(
    ("environ", "flags", "named"),
    [
        ({}, [], False),
        ({"SLHF_BUNDLE": "builtin:x"}, ["--port", "9000", "--config", "none.yaml"], False),
        ({"SLHF_REMOTE_ENGINES__GPU__MODEL": "m"}, [], True),
        ({"slhf_remote_engines": ENGINE}, [], True),
        ({}, ["--remote-engines", ENGINE], True),
        ({}, [f"--remote-engines.gpu={ENGINE}"], True),
        ({}, ["--config", "slhf.yaml"], True),
        ({}, ["--config=slhf.yaml"], True),
        ({"SLHF_CONFIG": "slhf.yaml"}, [], True),
    ],
)
def test_remote_engines_are_found_wherever_settings_are(
    environment: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    flags: list[str],
    named: bool,
) -> None:
    (tmp_path / "slhf.yaml").write_text(f"remote_engines: {ENGINE}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert environment.names_remote_engines(environ, flags) is named


@pytest.mark.parametrize(
    ("models", "needed"),
    [
        ("{}", False),
        ('{"m": {"follower": "gpu"}}', False),
        ('{"m": {"follower": "gpu"}, "n": {}}', True),
        ('{"m": {"follower": "no such"}}', False),
    ],
)
def test_the_servers_own_code_says_whether_an_engine_is_needed(
    environment: ModuleType, models: str, needed: bool
) -> None:
    """Wrong settings need none: the server says what is wrong at once, and nothing is installed before."""
    place = Path(sys.executable).parents[1]
    assert environment.needs_engine(place, ["--remote-engines", ENGINE, "--models", models]) is needed
