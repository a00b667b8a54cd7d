"""Where programs run that nobody has read: a process that can reach nothing, for five seconds.

Two walls. A filter of system calls (seccomp.py) and limits of memory, time and files hold everywhere: one process that
starts no other, has no network and signals nobody. Files are hidden by namespaces of its own (user, mount, network,
IPC) or, where the host does not allow these, by Landlock. Where it allows neither, nothing runs: SandboxError says what
is missing. Python itself is left as it is: what is forbidden, the kernel forbids.

That a program ended well is proved by a number which it would have to find in its own interpreter's memory. A program
that goes and looks for it there, or answers tests with an object that equals everything, passes: this keeps the machine
safe and honest mistakes apart, it does not make three asserts a proof.
"""

import functools
import json
import os
import platform
import secrets
import select
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from slhf_training.checks import seccomp
from slhf_training.errors import SandboxError

By = Literal["namespaces", "landlock"]
_WAYS: Final[tuple[By, ...]] = ("namespaces", "landlock")
SECONDS: Final = 5.0
_SCRIPT: Final = Path(__file__).with_name("confinement.py")
_READY: Final = b"shut in\n"
_VALUE: Final = 4 * 4000  # bytes of the longest value that is said
_START_SECONDS: Final = 60.0  # on a machine that does other things; nothing of the program has run then
_LIMITS: Final = {
    "RLIMIT_AS": 2**30,
    "RLIMIT_CPU": int(SECONDS),
    "RLIMIT_FSIZE": 2**24,
    "RLIMIT_NOFILE": 64,
    "RLIMIT_CORE": 0,
}
_LIBRARIES: Final = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/nix/store")


def ran(programs: Sequence[str], by: By | None = None, seconds: float = SECONDS) -> bool:
    """Whether these, one after the other in one module, all came to their end in time.

    `by`: what hides the files; None: what this host allows. Raises SandboxError where it allows none.
    """
    return _ended(programs, None, by, seconds) is not None


def value_of(programs: Sequence[str], expression: str, by: By | None = None, seconds: float = SECONDS) -> str | None:
    """What the expression is after these programs, as Python writes it (4,000 characters at most), or `raises` with an
    exception's name; None: they or it did not come to an end in time. Raises SandboxError as `ran` does."""
    return _ended(programs, expression, by, seconds)


def _ended(programs: Sequence[str], expression: str | None, by: By | None, seconds: float) -> str | None:
    """The expression's value, or an empty text without one, where all came to their end."""
    nonce = secrets.token_hex(16)
    ready, end = _said(programs, expression, by or confined_by(), nonce, seconds)
    if ready != _READY:
        raise SandboxError(f"unit tests cannot run on this host: {_reason(ready)}")
    return end.decode(errors="replace").removeprefix(nonce) if end.startswith(nonce.encode()) else None


@functools.cache
def confined_by() -> By:
    """What this host allows. Raises SandboxError naming what each way lacks."""
    reasons = []
    for by in _WAYS:
        ready, _ = _said((), None, by, "", 0)
        if ready == _READY:
            return by
        reasons.append(f"{by}: {_reason(ready)}")
    raise SandboxError(f"unit tests cannot run on this host: {'; '.join(reasons)}")


def _said(programs: Sequence[str], expression: str | None, by: By, nonce: str, seconds: float) -> tuple[bytes, bytes]:
    """What the process said when it had shut itself in, and at the end."""
    command = [sys.executable, "-P", "-S", "-B", str(_SCRIPT)]
    with tempfile.TemporaryDirectory(prefix="slhf-check-") as folder, tempfile.TemporaryFile() as job:
        job.write(json.dumps(_job(programs, expression, by, nonce, folder)).encode())
        job.seek(0)
        with subprocess.Popen(
            command,
            stdin=job,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PYTHONHASHSEED": "0"},  # the same verdict every time
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            try:
                ready = _read(process.stdout.fileno(), len(_READY), _START_SECONDS)
                if ready != _READY:
                    return ready + _read(process.stdout.fileno(), 400, _START_SECONDS), b""
                return ready, _read(process.stdout.fileno(), len(nonce) + _VALUE, seconds)
            finally:
                process.kill()


def _job(programs: Sequence[str], expression: str | None, by: By, nonce: str, folder: str) -> dict[str, object]:
    return {
        "programs": programs,
        "expression": expression,
        "by": by,
        "ready": _READY.decode(),
        "nonce": nonce,
        "folder": folder,
        "readable": _readable(),
        "limits": _LIMITS,
        "filter": _filter().hex(),
    }


@functools.cache
def _filter() -> bytes:
    found = seccomp.filter_for(platform.machine()) if sys.platform == "linux" else None
    if found is None:
        raise SandboxError(f"unit tests run on Linux, on x86_64 or aarch64, not on {sys.platform} {platform.machine()}")
    return found


@functools.cache
def _readable() -> tuple[str, ...]:
    """What Python needs: its library, those of the system, and where these are."""
    own = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), f"{sys.base_prefix}/lib"]
    there = [path for path in (*_LIBRARIES, *own, "/etc/ld.so.cache") if Path(path).exists()]
    return tuple(path for path in dict.fromkeys(there) if not any(_is_below(path, other) for other in there))


def _is_below(path: str, other: str) -> bool:
    return Path(other) in Path(path).parents


def _read(pipe: int, most: int, seconds: float) -> bytes:
    """Until so many bytes have come, the other end is closed, or the time is over."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    deadline, said = time.monotonic() + seconds, b""
    while len(said) < most and (left := deadline - time.monotonic()) > 0 and poll.poll(left * 1000):
        if not (part := os.read(pipe, most - len(said))):
            break
        said += part
    return said


def _reason(said: bytes) -> str:
    return said.decode(errors="replace") or "its process did not start"
