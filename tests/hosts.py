"""What tests need of a host: that it can hold programs back; and a Python on one that cannot."""

import functools
import platform
import subprocess
import sys

import pytest

from slhf.errors import SandboxError
from slhf.sandbox import confined_by


@functools.cache
def _refusal() -> str:
    try:
        confined_by()
    except SandboxError as exc:
        return str(exc)
    return ""


needs_sandbox = pytest.mark.skipif(bool(_refusal()), reason=_refusal())

_FILTER = """
import ctypes, struct
step = lambda code, value, then=0, otherwise=0: struct.pack("HBBI", code, then, otherwise, value)
program = step(0x20, 0) + b"".join(step(0x15, n, 0, 1) + step(0x06, 0x00050000 | 38) for n in (272, 444))
program += step(0x06, 0x7FFF0000)
held = ctypes.create_string_buffer(program, len(program))
described = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(held)), 16)
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, described, 0, 0) == 0
"""


def denied(program: str) -> str:
    """What a program says under a filter in which neither unshare nor Landlock exists, so that no sandbox holds."""
    if platform.machine() != "x86_64":
        pytest.skip("the numbers are those of x86_64")
    done = subprocess.run([sys.executable, "-c", _FILTER + program], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()
