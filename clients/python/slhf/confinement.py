"""The process in which the programs of answers run: it shuts itself in, runs them, and reports how far they came.

This is a script that `sandbox.py` starts; it imports the standard library alone. It reads a job (JSON) from standard
input. It writes the job's `ready` to standard output once it is shut in, or the reason why it cannot be, and one of
the job's `words`, which says how the programs ended. The rights that it gives up are gone for good: no code that runs
afterwards, in this process or in another, can take them back.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

PREAMBLE = """
import math, re, heapq, itertools, collections, functools, bisect, string
from typing import *
from collections import *
from itertools import *
"""
"""The imports that programs of code_tasks take for granted."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_BIND, _REC, _PRIVATE, _NOSUID, _NODEV, _NOEXEC, _DETACH = 0x1000, 0x4000, 0x40000, 0x2, 0x4, 0x8, 2
_USER, _MOUNT, _IPC, _UTS, _NET = 0x10000000, 0x20000, 0x08000000, 0x04000000, 0x40000000
_MOUNT_SETATTR, _AT_FDCWD, _RECURSIVE, _READ_ONLY = 442, -100, 0x8000, 0x1
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF, _PATH_BENEATH = 444, 445, 446, 1
_READING = 1 << 2 | 1 << 3  # read files and list folders
_WRITING = _READING | 1 << 1 | 1 << 5 | 1 << 8 | 1 << 14  # and write, remove, make and truncate files
_HANDLED = ((1, 0x1FFF), (2, 0x3FFF), (3, 0x7FFF), (5, 0xFFFF))
"""From each version of Landlock on, the accesses to files that it knows: all are denied unless a rule grants them."""
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER, _CAPABILITIES, _PARENT_DEATH = 38, 22, 2, 0x20080522, 1


def main() -> None:
    job = json.load(sys.stdin.buffer)
    verdict = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)
    os.environ.clear()
    try:
        shut_in(job)
    except OSError as exc:
        os.write(verdict, str(exc).encode())
        return
    os.write(verdict, job["ready"].encode())
    os.write(verdict, job["words"].get(ended(job["programs"]), "").encode())
    os._exit(0)  # threads of a program may still run


def ended(programs: list[str]) -> str:
    """Run the programs and return how they ended (`Outcome` in sandbox.py)."""
    try:
        run(programs)
    except SyntaxError:
        return "unread"
    except (ImportError, OSError, EOFError, MemoryError, SystemExit):
        return "unable"
    except BaseException:  # noqa: BLE001  whatever a program raises is its own fault
        return "failed"
    return "ended"


def run(programs: list[str]) -> None:
    """Run the programs one after the other in one module.

    Each is compiled alone, and all before the first one runs, so that none can swallow or replace the next.
    """
    module = types.ModuleType("answer")  # not __main__: an answer is tested as a module and not as a script
    sys.modules[module.__name__] = module
    compiled = [compile(program, module.__name__, "exec", dont_inherit=True) for program in (PREAMBLE, *programs)]
    execute = exec  # a program may replace the builtin
    for code in compiled:
        execute(code, module.__dict__)


def shut_in(job: Mapping[str, Any]) -> None:
    """Confine this process for good. Raises OSError naming the step that this host does not allow."""
    for name, most in job["limits"].items():
        kind = getattr(resource, name)
        _, hard = resource.getrlimit(kind)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, least))
    _CONFINEMENTS[job["by"]](job["readable"], job["folder"])
    _drop_capabilities()
    _call("prctl", _PARENT_DEATH, signal.SIGKILL, 0, 0, 0)  # none of this outlives a process that was killed
    if os.getppid() != job["parent"]:
        raise OSError("its parent has gone")
    _filter(bytes.fromhex(job["filter"]))


def _namespaces(readable: list[str], folder: str) -> None:
    """Give the process a file system of its own: what it may read, and an empty /tmp; no network, no other's IPC."""
    user, group = os.getuid(), os.getgid()
    _call("unshare", _USER | _MOUNT | _IPC | _UTS | _NET)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    _mount(None, "/", None, _REC | _PRIVATE)
    _mount("tmpfs", folder, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    os.mkdir(f"{folder}/tmp")
    for path in readable:
        if os.path.isdir(path):
            os.makedirs(folder + path, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(folder + path), exist_ok=True)
            open(folder + path, "x").close()
        _mount(path, folder + path, None, _BIND | _REC)
    read_only = ctypes.create_string_buffer(struct.pack("QQQQ", _READ_ONLY | _NOSUID, 0, 0, 0))
    _system_call("mount_setattr", _MOUNT_SETATTR, _AT_FDCWD, folder.encode(), _RECURSIVE, read_only, 32)
    _mount("tmpfs", f"{folder}/tmp", "tmpfs", _NOSUID | _NODEV | _NOEXEC, "size=16m,mode=700")
    os.chdir(folder)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _DETACH)
    os.chdir("/tmp")


def _landlock(readable: list[str], folder: str) -> None:
    """Let the process read what is readable and write in the folder. The filter forbids network and signals."""
    version = _system_call("landlock", _CREATE_RULESET, None, 0, 1)
    handled = [accesses for since, accesses in _HANDLED if since <= version][-1]
    attributes = ctypes.create_string_buffer(struct.pack("Q", handled), 8)
    rules = _system_call("landlock_create_ruleset", _CREATE_RULESET, attributes, 8, 0)
    for path, access in [*((path, _READING) for path in readable), (folder, _WRITING)]:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        access &= handled if os.path.isdir(path) else 1 << 2
        rule = ctypes.create_string_buffer(struct.pack("=Qi", access, place), 12)
        _system_call("landlock_add_rule", _ADD_RULE, rules, _PATH_BENEATH, rule, 0)
        os.close(place)
    _call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    _system_call("landlock_restrict_self", _RESTRICT_SELF, rules, 0)
    os.close(rules)
    os.chdir(folder)


_CONFINEMENTS: Mapping[str, Callable[[list[str], str], None]] = {"namespaces": _namespaces, "landlock": _landlock}


def _drop_capabilities() -> None:
    header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITIES, 0), 8)
    _call("capset", header, ctypes.create_string_buffer(24))


def _filter(program: bytes) -> None:
    """Allow only the system calls that the filter lists, from here on."""
    instructions = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(instructions))
    _call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    _call("prctl", _SECCOMP, _FILTER, ctypes.create_string_buffer(described, 16), 0, 0)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [text if text is None else text.encode() for text in (source, target, kind, data)]
    _call("mount", *texts[:3], flags, texts[3])


def _call(name: str, *arguments: Any) -> int:
    return _checked(name, getattr(_LIBC, name), arguments)


def _system_call(name: str, *arguments: Any) -> int:
    return _checked(name, _LIBC.syscall, arguments)


def _checked(name: str, function: Any, arguments: tuple[Any, ...]) -> int:
    result: int = function(*(ctypes.c_ulong(one & (1 << 64) - 1) if isinstance(one, int) else one for one in arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


if __name__ == "__main__":
    main()
