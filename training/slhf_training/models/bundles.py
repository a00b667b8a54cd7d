"""Opens bundles by slhf-server's own code, and says how to install that where it is missing.

`evaluation/served.py` and this module are the only ones of training that import slhf_server, and they do it late.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from slhf.bundle import BUILTIN_PREFIX
from slhf_training.errors import SettingsError

if TYPE_CHECKING:
    from slhf_server.bundles.opened import OpenBundle as OpenBundle


@contextmanager
def needing_the_server(what: str) -> Iterator[None]:
    """Within this, a missing package and the server's refusals become a SettingsError that begins with `what`."""
    try:
        from slhf_server.settings.problem import SettingsError as Refused
    except ModuleNotFoundError as exc:
        raise _missing(what, exc) from exc
    try:
        yield
    except ModuleNotFoundError as exc:
        raise _missing(what, exc) from exc
    except Refused as exc:
        raise SettingsError(f"{what}: {exc}") from exc


def open_bundle(key: str, spec: str) -> "OpenBundle":
    """Open a builtin, a directory or a hub id, with its files on local disk. Raises SettingsError naming the key."""
    with needing_the_server(key):
        from slhf_server.loading.opening import open_bundle as opened
        from slhf_server.settings.server import Settings

        return opened(Settings(bundle=spec))


def located(name: str, key: str) -> str:
    """Return the path or hub id that transformers loads a configuration's model from.

    Raises SettingsError naming the key.
    """
    if not name.startswith(BUILTIN_PREFIX):
        return name
    bundle = open_bundle(key, name)
    if bundle.adapter("leader") or bundle.adapter("follower"):
        raise SettingsError(f"{key}: {name} is trained already; its base is {bundle.manifest.base_model}")
    return str(bundle.weights)


def directory_of(name: str, key: str) -> Path:
    """Return the directory of a built-in bundle, or the path that was named. Raises SettingsError naming the key."""
    return open_bundle(key, name).directory if name.startswith(BUILTIN_PREFIX) else Path(name)


def _missing(what: str, exc: ModuleNotFoundError) -> SettingsError:
    extra = "slhf-server[gpu] or slhf-server[cpu]" if (exc.name or "").startswith("vllm") else "slhf-server"
    return SettingsError(f"{what}: the package {exc.name} is not installed: pip install {extra}")
