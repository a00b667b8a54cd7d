"""The chart with several value files: Kubernetes takes what it renders, and the server the settings in it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from slhf_server.settings.reading import load_settings
from tests.deploy.chart.conftest import CHART, VALUES, Render
from tests.deploy.pods import pod_specs
from tests.deploy.programs import DEPLOY, ROOT, found, run

FILES = sorted(file.stem for file in VALUES.glob("*.yaml"))
CUSTOM = {"PrometheusRule", "ScaledObject", "ServiceMonitor"}
"""Kinds that Kubernetes itself does not know; test_custom_resources.py reads them."""


def container(deployment: dict[str, Any]) -> dict[str, Any]:
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def environment(deployment: dict[str, Any]) -> dict[str, Any]:
    """Variables by name: the value, or where it comes from."""
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container(deployment)["env"]}


@pytest.mark.parametrize("values", FILES)
def test_helm_lint_is_content(values: str) -> None:
    done = run("helm", "lint", "--strict", str(CHART), "--values", str(VALUES / f"{values}.yaml"))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kubernetes", ["1.30", "1.37"])
@pytest.mark.parametrize("values", FILES)
def test_kubernetes_knows_every_field(render: Render, values: str, kubernetes: str, tmp_path: Path) -> None:
    found("kubernetes-validate")
    manifests = [manifest for (kind, _), manifest in render(values).items() if kind not in CUSTOM]
    file = tmp_path / "rendered.yaml"
    file.write_text(yaml.safe_dump_all(manifests))
    done = run("kubernetes-validate", "--strict", "--kubernetes-version", kubernetes, str(file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", FILES)
def test_the_server_takes_the_settings(
    render: Render, values: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = render(values)
    file = tmp_path / "slhf.yaml"
    file.write_text(rendered["ConfigMap", "r-slhf"]["data"]["slhf.yaml"])
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"- name: web\n  sha256: '{'0' * 64}'\n")
    variables = environment(rendered["Deployment", "r-slhf"])
    for name, value in variables.items():
        monkeypatch.setenv(name, value if isinstance(value, str) else "from-a-secret")
    monkeypatch.setenv("SLHF_CONFIG", str(file))
    if "SLHF_API_KEYS_FILE" in variables:
        monkeypatch.setenv("SLHF_API_KEYS_FILE", str(keys))
    settings = load_settings([])
    assert (settings.host, settings.port, str(settings.cache_dir)) == ("0.0.0.0", 8000, "/cache/slhf")


def test_an_image_must_be_named(render: Render) -> None:
    with pytest.raises(ValueError, match="/image/repository"):
        render("replicas=1")


@pytest.mark.parametrize(
    "wrong",
    [
        "replica=2",
        "gpu.count=-1",
        "settings.api_keys=web=key",
        "settings.port=9000",
        "autoscaling.kind=vpa",
        "autoscaling.kind=keda",
        "networkPolicy.from=null",
    ],
)
def test_a_wrong_value_is_refused(render: Render, wrong: str) -> None:
    with pytest.raises(ValueError, match="Error"):
        render("smallest", wrong)


def test_a_gateway_has_its_own_image_and_no_gpu(render: Render) -> None:
    pod = render("gateway")["Deployment", "r-slhf"]["spec"]["template"]["spec"]
    (only,) = pod["containers"]
    assert only["image"].endswith("-gateway")
    assert only["resources"]["limits"] == {"memory": "1Gi"}
    assert "runtimeClassName" not in pod


def test_new_settings_make_new_pods(render: Render) -> None:
    def annotations(*values: str) -> Any:
        deployment = render("smallest", *values)["Deployment", "r-slhf"]
        return deployment["spec"]["template"]["metadata"]["annotations"]

    assert annotations() == annotations() != annotations("settings.limits.rounds=3")


def test_a_pod_has_no_rights_and_two_places_to_write(render: Render) -> None:
    pod = render("production")["Deployment", "r-slhf"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    (only,) = pod["containers"]
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = {mount["mountPath"] for mount in only["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/cache", "/tmp", "/dev/shm"}


@pytest.mark.parametrize("values", FILES)
def test_no_pod_gets_the_links_of_services(render: Render, values: str) -> None:
    specs = [spec for manifest in render(values, release="slhf").values() for spec in pod_specs(manifest)]
    assert specs
    assert [spec.get("enableServiceLinks") for spec in specs] == [False] * len(specs)


def test_settings_mean_the_same_after_helm_has_written_them(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`off` has become false, and `limits.rounds:` null."""
    monkeypatch.delenv("SLHF_CONFIG", raising=False)
    file = tmp_path / "slhf.yaml"
    file.write_text(render("spellings")["ConfigMap", "r-slhf"]["data"]["slhf.yaml"])
    settings = load_settings(["--config", str(file)])
    assert (settings.speculation, settings.log_content) == ("off", False)
    assert (settings.limits.rounds, settings.limits.body_bytes) == (8, 4 << 20)
    assert list(settings.models) == ["4.1", "assistant"]
    assert settings.engine == {"kv_cache_memory_bytes": 1 << 30, "enforce_eager": True, "revision": "0123"}


def test_where_weights_come_from_and_what_becomes_of_them_is_passed_on(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also to an image with weights inside, which names their folder by a variable: that would win over a file's."""
    rendered = render("weights")
    file = tmp_path / "slhf.yaml"
    file.write_text(rendered["ConfigMap", "r-slhf"]["data"]["slhf.yaml"])
    for name, value in ({"SLHF_WEIGHTS_DIR": "/of/the/image"} | environment(rendered["Deployment", "r-slhf"])).items():
        monkeypatch.setenv(name, value)
    settings = load_settings(["--config", str(file)])
    assert str(settings.weights_dir) == "/cache/weights"
    assert (settings.weights_mirrors, settings.cpu_quantization) == (True, "none")


def test_weights_that_are_inside_the_image_are_found_where_no_others_are_named(render: Render) -> None:
    assert "SLHF_WEIGHTS_DIR" not in environment(render()["Deployment", "r-slhf"])


def test_a_first_start_has_the_time_to_fetch_an_8b_model(render: Render) -> None:
    """16 GB at 10 MB/s. The probes that kill ask /health, which answers while the server fetches; but a rollout
    without progress for so long has failed."""
    deployment = render()["Deployment", "r-slhf"]
    assert deployment["spec"]["progressDeadlineSeconds"] >= 16e9 / 10e6


def test_a_pod_lives_as_long_as_its_server_may_take_to_end(render: Render) -> None:
    """5 s until no traffic comes, the grace period, and docs/configuration.md's 15 s for the engine."""
    pod = render("smallest", "gracePeriodSeconds=60")["Deployment", "r-slhf"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 5 + 60 + 15
    assert pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]


def test_probes_ask_what_they_are_for(render: Render) -> None:
    server = container(render()["Deployment", "r-slhf"])
    asked = {name: server[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert asked == {"startup": "/health", "liveness": "/health", "readiness": "/ready"}


def test_gpus_are_asked_for_and_choose_the_image(render: Render) -> None:
    gpu, cpu = (container(render(values)["Deployment", "r-slhf"]) for values in ("production", "cpu"))
    version = (ROOT / "VERSION").read_text().strip()
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert "nvidia.com/gpu" not in cpu["resources"]["limits"]
    assert (gpu["image"], cpu["image"]) == tuple(
        f"registry.example/slhf-server:{version}-{target}" for target in ("gpu", "cpu")
    )


def test_secrets_are_named_and_not_held(render: Render) -> None:
    rendered = render("production")
    assert "Secret" not in {kind for kind, _ in rendered}
    variables = environment(rendered["Deployment", "r-slhf"])
    assert variables["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert variables["SLHF_API_KEYS_FILE"] == "/etc/slhf-keys/keys.yaml"


def test_dashboards_and_rules_are_those_of_the_repository(render: Render) -> None:
    rendered = render("production")
    for file in (DEPLOY / "grafana" / "dashboards").glob("*.json"):
        assert rendered["ConfigMap", f"r-slhf-{file.stem}"]["data"][file.name].strip() == file.read_text().strip()
    files = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    assert rendered["PrometheusRule", "r-slhf"]["spec"]["groups"] == groups


def test_prometheus_finds_our_word_in_every_releases_name(render: Render) -> None:
    """Its rules look for jobs with "slhf" in their name, and the service's name is the job's."""
    for release in ("r", "slhf", "my-slhf-8b", "a" * 53):
        (name,) = [name for kind, name in render("smallest", release=release) if kind == "Service"]
        assert "slhf" in name
        assert len(name) <= 52
