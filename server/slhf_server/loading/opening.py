"""Opens a bundle, wherever it comes from: built in, a directory, or a Hugging Face hub id."""

import logging
import os
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from slhf import BundleError, read_bundle
from slhf.bundle import BUILTIN_PREFIX
from slhf_server.builtin.catalogue import built_in
from slhf_server.bundles.opened import OpenBundle
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import Settings

_DESCRIPTION = ["*.json", "*.jinja", "*.model", "*.txt", "*adapter_model.safetensors"]
_WANTED = [*_DESCRIPTION, "*.safetensors"]
_logger = logging.getLogger(__name__)


def open_bundle(settings: Settings, *, weights: bool = True) -> OpenBundle:
    """Find the bundle that the settings name and check it. Raises SettingsError naming the setting.

    Without `weights`, the hub is asked for everything else.
    """
    try:
        return _found(settings.bundle, settings, _WANTED if weights else _DESCRIPTION)
    except OSError as exc:
        raise SettingsError(f"bundle {settings.bundle!r}: {exc}") from exc


def _found(spec: str, settings: Settings, wanted: list[str]) -> OpenBundle:
    if spec.startswith(BUILTIN_PREFIX):
        return _read(built_in(spec, settings), spec, settings, wanted)
    directory = Path(os.path.expanduser(spec))
    if directory.is_dir():
        return _read(directory, spec, settings, wanted)
    if spec.startswith((".", "/", "~")) or spec.count("/") != 1:
        raise SettingsError(f"bundle: {spec!r} is no directory, and no hub id (owner/name) either")
    return _read(_download(spec, wanted), spec, settings, wanted, name=spec.split("/")[1])


def _read(directory: Path, spec: str, settings: Settings, wanted: list[str], *, name: str | None = None) -> OpenBundle:
    try:
        manifest = read_bundle(directory, name=name)
    except BundleError as exc:
        raise SettingsError(f"bundle {spec!r}: {exc}") from exc
    weights = _base(directory, manifest.base_model, settings, wanted)
    if not (weights / "config.json").exists():
        raise SettingsError(f"bundle {spec!r}: base_model {manifest.base_model!r} holds no model (no config.json)")
    return OpenBundle(directory, manifest, weights)


def _base(directory: Path, name: str, settings: Settings, wanted: list[str]) -> Path:
    if name.startswith(BUILTIN_PREFIX):
        return built_in(name, settings)
    beside = directory / name
    return beside if beside.is_dir() else _download(name, wanted)


def _download(hub_id: str, wanted: list[str]) -> Path:
    """The snapshot's directory in Hugging Face's cache; a complete one is used without network (HF_HUB_OFFLINE=1)."""
    from huggingface_hub import snapshot_download  # an eighth of the time in which a gateway listens

    _logger.info("fetching %s from the Hugging Face hub, unless it is in the cache", hub_id)
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, OSError) as exc:
        raise SettingsError(f"bundle: {hub_id!r} is no directory here, and the hub did not give it: {exc}") from exc
