"""Directories of the cache that are made once, whoever asks and however often a maker is killed."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from slhf_server.errors import SettingsError


@contextmanager
def _in_the_cache() -> Iterator[None]:
    """What the file system says is about the setting; an OSError without a number is another's own word."""
    try:
        yield
    except OSError as exc:
        if exc.errno is None:
            raise
        raise SettingsError(f"cache_dir: {exc}") from exc


@_in_the_cache()
def made_once(directory: Path, make: Callable[[Path], None]) -> Path:
    """`directory`, which `make` fills on first use. Two processes may ask at once; one makes it.

    It is filled beside its final place and renamed: what carries the final name is whole. Raises SettingsError for a
    cache that cannot be written.
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
