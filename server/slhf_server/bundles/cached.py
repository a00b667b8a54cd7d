"""Directories of the cache that are built once, safe against concurrent callers and killed builders.

The cache may belong to several users: a container's image makes it writable for a group, and each container may run as
another user. So what is built has the modes that the umask leaves and the group of the directory above, and every user
that may write in the cache may take its locks, too.
"""

import contextlib
import ctypes
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

from slhf_server.settings.problem import SettingsError


@contextlib.contextmanager
def _in_the_cache() -> Iterator[None]:
    """Blame the setting for errors of the file system; an OSError without a number is of another kind."""
    try:
        yield
    except OSError as exc:
        if exc.errno is None:
            raise
        raise SettingsError(f"cache_dir: {exc}") from exc


@_in_the_cache()
def build_once(directory: Path, make: Callable[[Path], None]) -> Path:
    """The `directory`, which `make` fills on first use. Where two processes ask at once, one makes it.

    It is filled beside its final place and then renamed, so that a directory of the final name is whole. Raises
    SettingsError for a cache that cannot be written.
    """
    if not directory.exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        mode = directory.parent.stat().st_mode & 0o666
        with FileLock(directory.with_name(f"{directory.name}.lock"), mode=mode):
            if not directory.exists():
                _make(directory, make)
    return directory


def _make(directory: Path, make: Callable[[Path], None]) -> None:
    for leftover in directory.parent.glob(f"{directory.name}.*.partial"):  # a killed builder's; we hold the lock
        shutil.rmtree(leftover, ignore_errors=True)  # another user's files may have to stay
    partial = directory.with_name(f"{directory.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        make(partial)
        _share(partial)
        os.rename(partial, directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _return_memory()


def _return_memory() -> None:
    """Return freed memory, which glibc keeps: 1.2 of 1.7 GB after converting a model of 0.5 billion parameters."""
    with contextlib.suppress(AttributeError):  # another C library has no such function
        ctypes.CDLL(None).malloc_trim(0)


def _share(partial: Path) -> None:
    """Give files the modes that the umask leaves them: safetensors writes its own for their owner alone."""
    mode = partial.stat().st_mode & 0o666
    for path in partial.rglob("*"):
        if path.is_file():
            path.chmod(mode)
