"""Finds a file by its digest, in the first source that has it; sources on this machine come before those of a network.

What is fetched lies in a folder of its own, in the parts that it came in, until the whole has the right digest, so a
download that was killed goes on where it stopped. A file with another digest is named, and the next source is asked; it
is deleted if we fetched it, and left alone if it is the user's own.
"""

import hashlib
import logging
import shutil
from pathlib import Path

from slhf.bundle import BUILTIN_PREFIX
from slhf_server.builtin.attempt import QUICK, Unavailable
from slhf_server.builtin.sources import SOURCES
from slhf_server.builtin.weights import Weights
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import Settings

_logger = logging.getLogger(__name__)


def fetched(weights: Weights, place: Path, settings: Settings) -> Path:
    """A file that has the digest; if it had to be fetched, it lies in `place`, which only this process uses.

    Raises SettingsError saying of each source why it did not have the file, and how to provide it.
    """
    said = []
    for name, source in SOURCES.items():
        _open(place)
        try:
            return _verified(source(weights, place, settings), weights, place)
        except Unavailable as exc:
            said.append(f"{name}: {exc}")
            _logger.log(logging.WARNING if exc.is_wrong else logging.DEBUG, "%s: %s", name, exc)
    smaller = f"; {BUILTIN_PREFIX}{QUICK}-slhf is smaller, and may be had" if weights.name != QUICK else ""
    raise SettingsError(
        f"bundle {BUILTIN_PREFIX}{weights.name}: no source gave {weights.file} ({weights.bytes:,} bytes, sha256 "
        f"{weights.sha256}): {'; '.join(said)}. If you have the file, name its folder by weights_dir "
        f"(--weights-dir, SLHF_WEIGHTS_DIR){smaller}"
    )


def _open(place: Path) -> None:
    """Make the folder so that every user that may write in the cache can go on with what another's process began."""
    if not place.exists():
        place.mkdir(parents=True)
        place.chmod(place.parent.stat().st_mode & 0o7777)


def _verified(file: Path, weights: Weights, place: Path) -> Path:
    """The file, if it has the digest. Else raises Unavailable, and deletes it with its parts if it lies in `place`."""
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found == weights.sha256:
        return file
    ours = file.is_relative_to(place)
    if ours:
        shutil.rmtree(place)
    raise Unavailable(
        f"{file} has the sha256 {found}, and not {weights.sha256}; it was {'deleted' if ours else 'left alone'}",
        is_wrong=True,
    )
