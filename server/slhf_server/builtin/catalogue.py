"""The names after `builtin:`, with the directory of each. A trained bundle is there; a model is made on first use."""

import shutil
from pathlib import Path

from slhf.bundle import BUILTIN_PREFIX, MANIFEST
from slhf_server.builtin.attempt import QUICK
from slhf_server.builtin.convert import convert
from slhf_server.builtin.fetch import fetched
from slhf_server.builtin.weights import WEIGHTS, Weights
from slhf_server.bundles.cached import build_once
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import Settings

NAME = QUICK
"""The smallest model, for tests and for a quick look."""
TRAINED = f"{NAME}-slhf"
_TRAINED_AT = Path(__file__).with_name("trained")


def built_in(spec: str, settings: Settings) -> Path:
    """The directory of the bundle `builtin:NAME`, made on first use; where two processes ask, one makes it.

    Raises SettingsError for an unknown name, and where no source has the model's file.
    """
    name = spec.removeprefix(BUILTIN_PREFIX)
    if name in _trained():
        return _TRAINED_AT / name
    if name not in WEIGHTS:
        there_are = ", ".join(f"{BUILTIN_PREFIX}{known}" for known in (*_trained(), *WEIGHTS))
        raise SettingsError(f"bundle: {spec!r} is not built in; there are {there_are}")
    weights = WEIGHTS[name]
    return build_once(settings.cache_dir / weights.key, lambda target: _make(target, weights, settings))


def _trained() -> list[str]:
    return sorted(manifest.parent.name for manifest in _TRAINED_AT.glob(f"*/{MANIFEST}"))


def _make(target: Path, weights: Weights, settings: Settings) -> None:
    """Fetch the file beside the target, where a killed process leaves what it had for the next one, and convert it.

    What was fetched is deleted after the conversion: it is not read again, and has a third of the converted model's
    size.
    """
    place = settings.cache_dir / f"{weights.key}.fetched"
    convert(fetched(weights, place, settings), weights, target)
    shutil.rmtree(place, ignore_errors=True)  # another user's files may have to stay
