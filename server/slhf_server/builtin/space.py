"""Asks whether the disk has room for what is about to be written; a full one would tell only after a gigabyte."""

import shutil
from pathlib import Path

from slhf_server.settings.problem import SettingsError


def require(needed: int, directory: Path, what: str) -> None:
    """Raises SettingsError where fewer bytes are free than are needed."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise SettingsError(f"cache_dir: {what} needs {needed:,} bytes in {directory.parent}, and {free:,} are free")
