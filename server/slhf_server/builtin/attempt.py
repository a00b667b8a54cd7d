"""What a source is: a function that gives a file's path, or says why it has none."""

import logging
from collections.abc import Callable
from pathlib import Path

from slhf.bundle import BUILTIN_PREFIX
from slhf_server.builtin import space
from slhf_server.builtin.weights import Weights
from slhf_server.settings.redaction import without_secrets
from slhf_server.settings.server import Settings

QUICK = "smollm2-135m"
"""The model that starts soonest: its file is a tenth of the others'."""
_BYTES_PER_S = 10_000_000
_MOST_SHOWN = 300
_logger = logging.getLogger(__name__)


class Unavailable(Exception):
    """A source does not have the file; the text says why. `is_wrong` says that it has another file of that name."""

    def __init__(self, why: object, *, is_wrong: bool = False) -> None:
        super().__init__(without_secrets(" ".join(str(why).split()))[:_MOST_SHOWN] or type(why).__name__)
        self.is_wrong = is_wrong


Source = Callable[[Weights, Path, Settings], Path]
"""It gets what is wanted, and the folder for what it fetches, where a killed process may have left something.

Raises Unavailable."""


def existing(file: Path) -> Path:
    """The file. Raises Unavailable where there is none."""
    if not file.is_file():
        raise Unavailable(f"there is no {file}")
    return file


def begin(weights: Weights, place: Path, whence: str, needed: int) -> None:
    """Log what is about to be fetched, and what would be quicker.

    `needed` are the bytes of disk that it takes, without those of the conversion. Raises SettingsError for a disk that
    is too full, because no other source needs less.
    """
    space.require(needed + weights.converted_bytes, place, f"fetching and converting {weights.file}")
    minutes = max(1, round(weights.bytes / _BYTES_PER_S / 60))
    _logger.info(
        "start: fetching %s, once: %s bytes, about %d min at %d MB/s, from %s, into %s",
        *(weights.file, f"{weights.bytes:,}", minutes, _BYTES_PER_S // 1_000_000, whence, place),
    )
    if weights.name != QUICK:
        _logger.info("start: for a quick first look there is --bundle %s%s-slhf", BUILTIN_PREFIX, QUICK)
