"""Runs programs that no person has read, for five seconds at most, in a process that can reach nothing.

Two walls hold it in. On every host a filter of system calls (seccomp) and limits of memory, time and files leave it one
process that starts no other, has no network and signals nobody. Its files are hidden by namespaces of its own (user,
mount, network, IPC) or, where the host does not allow these, by Landlock. Where the host allows neither, nothing runs,
and SandboxError says what is missing. Python itself is not patched: it is the kernel that forbids.

The proof that a program ended well is a number which it would have to find in its own interpreter's memory. A program
that looks for it there, or that answers tests with an object that equals everything, passes. So the sandbox keeps the
machine safe and catches honest mistakes, but it does not make three asserts a proof.
"""

import errno
import functools
import json
import os
import platform
import secrets
import select
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, get_args

from slhf.errors import SandboxError

ALLOWED = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, open 2 -, openat 257 56, close 3
57, close_range 436 436, lseek 8 62, stat 4 -, fstat 5 80, lstat 6 -, newfstatat 262 79, statx 332 291, access 21 -,
faccessat 269 48, faccessat2 439 439, readlink 89 -, readlinkat 267 78, getcwd 79 17, chdir 80 49, getdents64 217
61, dup 32 23, dup2 33 -, dup3 292 24, pipe 22 -, pipe2 293 59, poll 7 -, ppoll 271 73, select 23 -, pselect6 270
72, epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, eventfd2 290 19, mkdir 83 -,
mkdirat 258 34, rmdir 84 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276, ftruncate
77 46, fsync 74 82, umask 95 166, mmap 9 222, mprotect 10 226, munmap 11 215, mremap 25 216, madvise 28 233, brk 12
214, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, sigaltstack 131 132, futex 202 98,
set_robust_list 273 99, rseq 334 293, set_tid_address 218 96, arch_prctl 158 -, exit 60 93, exit_group 231 94,
restart_syscall 219 128, membarrier 324 283, getpid 39 172, getppid 110 173, gettid 186 178, getuid 102 174, geteuid
107 175, getgid 104 176, getegid 108 177, getgroups 115 158, sched_yield 24 124, sched_getaffinity 204 123,
clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115, nanosleep 35 101, gettimeofday 96 169, time
201 -, times 100 153, getrusage 98 165, getrlimit 97 163, sysinfo 99 179, uname 63 160, getrandom 318 278, alarm 37
-, setitimer 38 103, getitimer 36 102
"""
"""The allowed system calls, each with its numbers on x86_64 and aarch64, as the kernel's headers have them; "-" where
there is none."""
_WITH: Mapping[str, tuple[int, int, int, Sequence[int]]] = {
    "fcntl": (72, 25, 1, (0, 1, 2, 3, 4, 5, 6, 7, 1030)),  # not those by which a file sends signals
    "ioctl": (
        16,
        29,
        1,
        (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451),
    ),  # a terminal's state and size, how much can be read, blocking, closing on exec
    "prlimit64": (302, 261, 0, (0,)),  # 0 means the limits of this process itself
}
"""System calls that are allowed with some values of one argument: both numbers, the argument's place, its values."""
_CLONE, _CLONE3, _THREAD = (56, 220), (435, 435), 0x00010000
_MACHINES: Mapping[str, tuple[int, int]] = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""For each machine the column of its numbers in `ALLOWED`, and the kernel's number of its architecture."""
_LOAD, _IS, _HAS, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000


def filter_for(machine: str) -> bytes | None:
    """Return the filter, an array of `struct sock_filter`; None for a machine whose numbers are not listed here."""
    if machine not in _MACHINES:
        return None
    column, architecture = _MACHINES[machine]
    found = [_step(_LOAD, _ARCHITECTURE), _step(_IS, architecture, 1), _step(_RETURN, _KILL), _step(_LOAD, _NUMBER)]
    for entry in ALLOWED.split(","):
        if (number := entry.split()[1 + column]) != "-":
            found += [_step(_IS, int(number), 0, 1), _step(_RETURN, _ALLOW)]
    for *numbers, place, values in _WITH.values():
        found += _one_of(numbers[column], place, values)
    found += [_step(_IS, _CLONE3[column], 0, 1), _step(_RETURN, _FAIL | errno.ENOSYS)]  # libraries then try clone
    found += [_step(_IS, _CLONE[column], 0, 2), _step(_LOAD, _ARGUMENTS), _step(_HAS, _THREAD, 1)]
    return b"".join([*found, _step(_RETURN, _FAIL | errno.EPERM), _step(_RETURN, _ALLOW)])


def _one_of(number: int, place: int, values: Sequence[int]) -> list[bytes]:
    """Allow a system call where its argument at `place` has one of the values."""
    tests = [test for value in values for test in (_step(_IS, value, 0, 1), _step(_RETURN, _ALLOW))]
    rest = [_step(_LOAD, _ARGUMENTS + 8 * place), *tests, _step(_RETURN, _FAIL | errno.EPERM)]
    return [_step(_IS, number, 0, len(rest)), *rest]


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """Return one instruction. A test skips `then` instructions where it holds and `otherwise` where it does not."""
    return struct.pack("HBBI", code, then, otherwise, value)


By = Literal["namespaces", "landlock"]
_WAYS: Final[tuple[By, ...]] = ("namespaces", "landlock")
SECONDS: Final = 5.0
_SCRIPT: Final = Path(__file__).with_name("confinement.py")
_READY: Final = b"shut in\n"
_START_SECONDS: Final = 60.0  # long, for a busy machine: no program has run before the process is ready
_FILE_BYTES: Final = 2**24
_LIMITS: Final = {
    "RLIMIT_AS": 2**30,
    "RLIMIT_CPU": int(SECONDS),
    "RLIMIT_NOFILE": 64,
    "RLIMIT_CORE": 0,
}
_LIBRARIES: Final = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/nix/store")


Outcome = Literal["ended", "failed", "unable", "unread"]
"""How programs end: all came to their end in time; one raised or had to be killed; one wanted what is not in here (a
module, a file, input, a process, more memory) or ended the interpreter; one is no Python."""


def ran(programs: Sequence[str], by: By | None = None, seconds: float = SECONDS) -> bool:
    """Return whether the programs, run one after the other in one module, all came to their end in time.

    `by` says what hides the files; None takes the first way that this host allows. Raises SandboxError where it allows
    none.
    """
    return outcome(programs, by, seconds) == "ended"


def outcome(
    programs: Sequence[str], by: By | None = None, seconds: float = SECONDS, file_bytes: int = _FILE_BYTES
) -> Outcome:
    """Return how the programs ended. They write no file that is longer than `file_bytes`. Raises as `ran` does."""
    words: dict[Outcome, str] = {
        kind: secrets.token_hex(16) for kind in get_args(Outcome) if kind != "failed"
    }  # of one length; what a program writes by itself is none of them
    ready, end = _said(programs, by or confined_by(), words, seconds, file_bytes)
    if ready != _READY:
        raise SandboxError(f"programs cannot run on this host: {_reason(ready)}")
    return next((kind for kind, word in words.items() if end == word.encode()), "failed")


@functools.cache
def confined_by() -> By:
    """Return the first way of hiding files that this host allows. Raises SandboxError naming what each way lacks."""
    reasons = []
    for by in _WAYS:
        ready, _ = _said((), by, {}, 0, 0)
        if ready == _READY:
            return by
        reasons.append(f"{by}: {_reason(ready)}")
    raise SandboxError(f"programs cannot run on this host: {'; '.join(reasons)}")


def _said(
    programs: Sequence[str], by: By, words: Mapping[Outcome, str], seconds: float, file_bytes: int
) -> tuple[bytes, bytes]:
    """Return what the process wrote when it had confined itself, and what it wrote at its end."""
    try:
        return _told(programs, by, words, seconds, file_bytes)
    except OSError as exc:  # no temporary folder, no process
        raise SandboxError(f"programs cannot run on this host: {exc}") from exc


def _told(
    programs: Sequence[str], by: By, words: Mapping[Outcome, str], seconds: float, file_bytes: int
) -> tuple[bytes, bytes]:
    command = [sys.executable, "-P", "-S", "-B", str(_SCRIPT)]
    with tempfile.TemporaryDirectory(prefix="slhf-check-") as folder, tempfile.TemporaryFile() as job:
        job.write(json.dumps(_job(programs, by, words, folder, file_bytes)).encode())
        job.seek(0)
        with subprocess.Popen(
            command,
            stdin=job,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PYTHONHASHSEED": "0"},  # sets keep their order, so that the verdict is the same every time
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            try:
                ready = _read(process.stdout.fileno(), len(_READY), _START_SECONDS)
                if ready != _READY:
                    return ready + _read(process.stdout.fileno(), 400, _START_SECONDS), b""
                return ready, _read(process.stdout.fileno(), max(map(len, words.values()), default=0), seconds)
            finally:
                process.kill()


def _job(
    programs: Sequence[str], by: By, words: Mapping[Outcome, str], folder: str, file_bytes: int
) -> dict[str, object]:
    return {
        "programs": programs,
        "by": by,
        "ready": _READY.decode(),
        "words": words,
        "parent": os.getpid(),
        "folder": folder,
        "readable": _readable(),
        "limits": _LIMITS | {"RLIMIT_FSIZE": file_bytes},
        "filter": _filter().hex(),
    }


@functools.cache
def _filter() -> bytes:
    found = filter_for(platform.machine()) if sys.platform == "linux" else None
    if found is None:
        raise SandboxError(f"programs run on Linux, on x86_64 or aarch64, not on {sys.platform} {platform.machine()}")
    return found


@functools.cache
def _readable() -> tuple[str, ...]:
    """Return the paths that Python needs: its library, the system's, and the list of where these are."""
    own = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), f"{sys.base_prefix}/lib"]
    there = [path for path in (*_LIBRARIES, *own, "/etc/ld.so.cache") if Path(path).exists()]
    return tuple(path for path in dict.fromkeys(there) if not any(_is_below(path, other) for other in there))


def _is_below(path: str, other: str) -> bool:
    return Path(other) in Path(path).parents


def _read(pipe: int, most: int, seconds: float) -> bytes:
    """Read until `most` bytes have come, the other end is closed, or the time is over."""
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
