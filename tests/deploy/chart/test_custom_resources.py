"""Resources of other projects' controllers. Their schemas cannot be had offline: what we use of them stands here."""

from typing import Any

import jsonschema
import pytest

from tests.deploy.chart.conftest import Render

TEXT = {"type": "string", "minLength": 1}


def closed(**properties: Any) -> dict[str, Any]:
    """Every one of these, and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SELECTOR = closed(matchLabels={"type": "object", "additionalProperties": TEXT})
ENDPOINT = closed(port=TEXT, path=TEXT, interval=TEXT)
ENDPOINT["properties"]["authorization"] = closed(credentials=closed(name=TEXT, key=TEXT))
TRIGGER = closed(
    type={"const": "prometheus"},
    metricType={"const": "AverageValue"},
    metadata=closed(serverAddress=TEXT, query=TEXT, threshold=TEXT),
)
SPECS = {
    # monitoring.coreos.com/v1
    "ServiceMonitor": closed(
        selector=SELECTOR,
        endpoints={"type": "array", "items": ENDPOINT, "minItems": 1},
    ),
    "PrometheusRule": closed(
        groups={
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "rules"],
                "properties": {"name": TEXT, "interval": TEXT, "rules": {"type": "array", "minItems": 1}},
                "additionalProperties": False,
            },
        }
    ),
    # keda.sh/v1alpha1
    "ScaledObject": closed(
        scaleTargetRef=closed(name=TEXT),
        minReplicaCount={"type": "integer"},
        maxReplicaCount={"type": "integer"},
        advanced={"type": "object"},
        triggers={"type": "array", "items": TRIGGER, "minItems": 1},
    ),
}
VERSIONS = {
    "ServiceMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "ScaledObject": "keda.sh/v1alpha1",
}


@pytest.mark.parametrize("kind", SPECS)
def test_a_resource_has_its_controllers_fields(render: Render, kind: str) -> None:
    resource = render("production")[kind, "r-slhf"]
    assert resource["apiVersion"] == VERSIONS[kind]
    jsonschema.validate(resource["spec"], SPECS[kind])


def test_prometheus_shows_the_operators_key_where_metrics_want_one(render: Render) -> None:
    secret = ["serviceMonitor.operatorsKey.name=admin", "serviceMonitor.operatorsKey.key=token"]
    spec = render("production", *secret)["ServiceMonitor", "r-slhf"]["spec"]
    jsonschema.validate(spec, SPECS["ServiceMonitor"])
    assert spec["endpoints"][0]["authorization"] == {"credentials": {"name": "admin", "key": "token"}}


def test_scaling_follows_the_queue_and_the_work_of_this_release(render: Render) -> None:
    queries = [
        trigger["metadata"]["query"] for trigger in render("production")["ScaledObject", "r-slhf"]["spec"]["triggers"]
    ]
    assert queries == [
        f'sum(slhf_num_requests_{kind}{{namespace="refine",service="r-slhf"}})' for kind in ("running", "waiting")
    ]


def test_an_autoscaler_owns_the_number_of_replicas(render: Render) -> None:
    for values in ("hpa", "production"):
        assert "replicas" not in render(values)["Deployment", "r-slhf"]["spec"]
    assert render()["Deployment", "r-slhf"]["spec"]["replicas"] == 1
    metrics = render("hpa")["HorizontalPodAutoscaler", "r-slhf"]["spec"]["metrics"]
    assert {metric["pods"]["metric"]["name"] for metric in metrics} == {
        "slhf_num_requests_waiting",
        "slhf_num_requests_running",
    }
