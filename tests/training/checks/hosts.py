"""Whether this host can hold programs back at all."""

import functools

import pytest

from slhf_training.checks.sandbox import confined_by
from slhf_training.errors import SandboxError


@functools.cache
def _refusal() -> str:
    try:
        confined_by()
    except SandboxError as exc:
        return str(exc)
    return ""


needs_sandbox = pytest.mark.skipif(bool(_refusal()), reason=_refusal())
