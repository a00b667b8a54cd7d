"""Upgrades of a release: values that an earlier chart took are taken, and nothing that cannot change has changed.

values/ is what release 0.1.0 took. A later release adds files and changes none.
"""

import yaml

from tests.deploy.chart.conftest import CHART, VALUES, Render

SELECTOR = {"app.kubernetes.io/name": "slhf", "app.kubernetes.io/instance": "r"}
"""Immutable: another one would need the deployment deleted first."""


def test_every_value_that_was_taken_is_known_with_its_type() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    for file in VALUES.glob("*.yaml"):
        for name, value in yaml.safe_load(file.read_text()).items():
            assert isinstance(value, type(defaults[name])), f"{file.name}: {name}"


def test_selectors_are_what_they_always_were(render: Render) -> None:
    rendered = render("production")
    assert rendered["Deployment", "r-slhf"]["spec"]["selector"]["matchLabels"] == SELECTOR
    assert rendered["Service", "r-slhf"]["spec"]["selector"] == SELECTOR
    assert rendered["PodDisruptionBudget", "r-slhf"]["spec"]["selector"]["matchLabels"] == SELECTOR


def test_no_selector_names_a_version(render: Render) -> None:
    labels = render()["Deployment", "r-slhf"]["spec"]["template"]["metadata"]["labels"]
    assert set(SELECTOR.items()) < set(labels.items())
    assert "app.kubernetes.io/version" in labels
