"""What checks need of a host: that it can hold programs back, and the package with IFBench's checkers."""

import functools
import importlib.util

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


def has_ifbench() -> bool:
    return importlib.util.find_spec("if_verifiable") is not None


needs_ifbench = pytest.mark.skipif(not has_ifbench(), reason="if-verifiable is not installed (slhf-training[ifbench])")
