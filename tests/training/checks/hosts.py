"""What checks need of a host: the package with IFBench's checkers."""

import importlib.util

import pytest


def has_ifbench() -> bool:
    return importlib.util.find_spec("if_verifiable") is not None


needs_ifbench = pytest.mark.skipif(not has_ifbench(), reason="if-verifiable is not installed (slhf-training[ifbench])")
