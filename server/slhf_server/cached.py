"""Directories of the cache that are made once, whoever asks and however often a maker is killed."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def made_once(directory: Path, make: Callable[[Path], None]) -> Path:
    """`directory`, which `make` fills on first use. Two processes may ask at once; one makes it.

    It is filled beside its final place and renamed: what carries the final name is whole.
    """
    if not directory.exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(directory.with_name(f"{directory.name}.lock")):
            if not directory.exists():
                for leftover in directory.parent.glob(
                    f"{directory.name}.*.partial"
                ):  # of a killed one; we hold the lock
                    shutil.rmtree(leftover)
                partial = Path(tempfile.mkdtemp(prefix=f"{directory.name}.", suffix=".partial", dir=directory.parent))
                make(partial)
                os.rename(partial, directory)
    return directory
