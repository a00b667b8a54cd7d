"""Shows how far a download is: a bar on a terminal, and elsewhere a line in the log every ten seconds."""

import io
import logging
import sys
from typing import Any

from huggingface_hub.utils.tqdm import tqdm

from slhf_server.bundles import abandoning

_EVERY_S = 10
_logger = logging.getLogger(__name__)


class Progress(tqdm):
    """Progress in bytes of a file. huggingface_hub's own choices, by which a log shows nothing, are overruled."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._is_seen = sys.stderr.isatty()
        lines = {"mininterval": _EVERY_S, "maxinterval": _EVERY_S, "file": io.StringIO()}
        options |= {"unit": "B", "unit_scale": True, "disable": False, **({} if self._is_seen else lines)}
        super().__init__(*args, **options)  # type: ignore[no-untyped-call]

    def update(self, n: float | None = 1) -> bool | None:
        """Count `n` more bytes. Raises SettingsError where the download is no longer wanted."""
        abandoning.go_on()
        return super().update(n)  # type: ignore[no-any-return]

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show the progress; tqdm calls this as often as its interval says."""
        if self._is_seen:
            super().display(msg, pos)
        elif self.n:
            _logger.info("start: %s: %s of %s bytes", self.desc, f"{self.n:,}", f"{self.total or 0:,}")
