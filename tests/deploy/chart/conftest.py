"""deploy/helm/slhf, rendered by the real helm."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.programs import DEPLOY, run

CHART = DEPLOY / "helm" / "slhf"
VALUES = Path(__file__).parent / "values"

Rendered = dict[tuple[str, str], dict[str, Any]]
Render = Callable[..., Rendered]


@pytest.fixture(scope="session")
def render() -> Render:
    """`render("keda", "replicas=2")`: manifests by kind and name, from files of values/ and settings for --set."""

    @cache
    def render(*values: str, release: str = "r") -> Rendered:
        flags: list[str] = []
        for value in values or ("smallest",):
            flags += ["--set", value] if "=" in value else ["--values", str(VALUES / f"{value}.yaml")]
        done = run("helm", "template", release, str(CHART), "--namespace", "refine", *flags)
        if done.returncode:
            raise ValueError(done.stderr)
        manifests = [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]
        return {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in manifests}

    return render
