"""Pod specs of manifests, wherever a kind keeps them."""

from collections.abc import Iterator
from typing import Any


def pod_specs(manifest: Any) -> Iterator[dict[str, Any]]:
    """Of Deployments, Jobs, Pods and whatever another project's kind holds: each mapping that has containers."""
    if isinstance(manifest, dict):
        if "containers" in manifest:
            yield manifest
        for value in manifest.values():
            yield from pod_specs(value)
    elif isinstance(manifest, list):
        for value in manifest:
            yield from pod_specs(value)
