"""The manifests that need no tool to be read: KubeRay's."""

import yaml

from tests.deploy.pods import pod_specs
from tests.deploy.programs import DEPLOY


def test_no_pod_of_a_manifest_gets_the_links_of_services() -> None:
    """Those of a service called slhf would look like settings. The chart's pods: chart/test_chart.py."""
    files = [file for file in DEPLOY.rglob("*.y*ml") if "templates" not in file.parts]
    specs = {
        file.name: found
        for file in files
        if (found := [spec for one in yaml.safe_load_all(file.read_text()) for spec in pod_specs(one)])
    }
    assert {name: len(found) for name, found in specs.items()} == {"rayservice.yaml": 2}
    assert [spec.get("enableServiceLinks") for spec in specs["rayservice.yaml"]] == [False, False]
