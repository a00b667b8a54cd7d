"""Nothing of the machine's own environment: neither a proxy nor a key."""

import os

import pytest


@pytest.fixture(autouse=True)
def no_proxy_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.lower().endswith("_proxy") or name.startswith("OPENAI_"):
            monkeypatch.delenv(name)
