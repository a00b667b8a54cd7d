"""The places where a model's file may be, in the order in which they are asked. Its digest is checked by fetch.py."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from slhf_server.builtin.attempt import Source, Unavailable, existing
from slhf_server.builtin.hub import hub, hub_cache
from slhf_server.builtin.mirrors import installed, mirrors
from slhf_server.builtin.weights import Weights
from slhf_server.settings.server import Settings


def local(weights: Weights, place: Path, settings: Settings) -> Path:
    """The user's own file."""
    if settings.weights_dir is None:
        raise Unavailable("not set")
    return existing(settings.weights_dir / weights.file)


def fetched_before(weights: Weights, place: Path, settings: Settings) -> Path:
    """The file that an earlier process fetched, and did not convert before it ended."""
    return existing(place / weights.file)


SOURCES: Final[Mapping[str, Source]] = {
    "weights_dir": local,
    "an earlier start": fetched_before,
    "Hugging Face's cache": hub_cache,
    "installed package": installed,
    "hub": hub,
    "mirrors": mirrors,
}
"""The sources by their names in messages. Those on this machine come first, so that no network is used needlessly."""
