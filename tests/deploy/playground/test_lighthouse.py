"""Lighthouse's audit of accessibility, empty and with a run shown; scripts/deploy-checks installs it."""

import base64
import json
import os
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from slhf_server.app import create_app
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import Settings
from tests.conftest import running
from tests.deploy.programs import found

LEAST = 95
"""Of 100 points."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(create_app(Settings(), FakeEngine().open)) as url:
        yield url


def with_a_run(url: str) -> str:
    """A link that holds three rounds, as the page makes it."""
    body = {"prompt": "Why is the sky blue?", "rounds": 3}
    answer = httpx2.post(f"{url}/v1/refine", json=body).raise_for_status().json()
    refinement = answer["refinement"]
    run = {"body": body, "status": "done", "rounds": refinement["rounds"], "refinement": refinement}
    packed = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    text = json.dumps({"form": {"prompt": body["prompt"], "rounds": 3}, "run": run}).encode()
    fragment = base64.urlsafe_b64encode(packed.compress(text) + packed.flush()).decode().rstrip("=")
    return f"{url}/#r={fragment}"


@pytest.mark.parametrize("page", ["empty", "with a run"])
def test_the_page_is_accessible(url: str, page: str, tmp_path: Path) -> None:
    modules = os.environ.get("PLAYGROUND_MODULES")
    if modules is None:
        pytest.skip("PLAYGROUND_MODULES is not set: scripts/deploy-checks installs lighthouse")
    address = with_a_run(url) if page == "with a run" else f"{url}/"
    report = tmp_path / "report.json"
    command = [found("node"), f"{modules}/lighthouse/cli/index.js", address, "--quiet", "--no-enable-error-reporting"]
    options = ["--only-categories=accessibility", "--output=json", f"--output-path={report}"]
    environ = os.environ | {"CHROME_PATH": found("chromium", "install Debian's package chromium")}
    chrome = "--chrome-flags=--headless=new --no-sandbox"
    done = subprocess.run([*command, *options, chrome], env=environ, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    told = json.loads(report.read_text())
    score = round(told["categories"]["accessibility"]["score"] * 100)
    print(f"lighthouse {told['lighthouseVersion']}, accessibility of the page, {page}: {score} of 100")  # noqa: T201
    failed = {name: audit["title"] for name, audit in told["audits"].items() if audit["score"] not in (None, 1)}
    assert score >= LEAST, failed
