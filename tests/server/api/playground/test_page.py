"""The page at `GET /` without a browser: what is served to whom, by which headers, and nothing else."""

import gzip
import json
import re
from collections.abc import Iterator
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import httpx2
import pytest

from slhf_server.api.playground.page import PATHS
from slhf_server.app import create_app
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.reading import load_settings
from slhf_server.settings.server import Settings
from tests.conftest import Serve, running
from tests.server.api.raw import Answer, exchange

ROOM = Path(__file__).resolve().parents[4] / "server" / "slhf_server" / "api" / "playground"
FILES = ROOM / "files"
MOST_BYTES = 100_000
"""Of all that the first paint needs, on the wire."""
POLICY = {
    "default-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "object-src": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "dompurify",
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server that asks for a key, which none of these requests brings."""
    with running(create_app(Settings(api_keys="me=right"), FakeEngine().open)) as base:
        yield base


def test_the_page_and_its_files_need_no_key_and_its_calls_do(url: str) -> None:
    assert {httpx2.get(url + path).status_code for path in PATHS} == {200}
    assert httpx2.get(f"{url}/v1/models").status_code == 401
    assert httpx2.post(f"{url}/v1/refine", json={"prompt": "x"}).status_code == 401


def test_every_file_is_served_and_nothing_is_served_that_is_no_file() -> None:
    shown = {f"/playground/{file.relative_to(FILES).as_posix()}" for file in FILES.rglob("*.*")}
    licences = {path for path in shown if path.endswith(".txt")}
    assert shown - licences - {"/playground/index.html"} | {"/"} == PATHS


@pytest.mark.parametrize("path", sorted(PATHS))
def test_a_file_is_shut_in_by_its_headers(url: str, path: str) -> None:
    answer = httpx2.get(url + path)
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    kind = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", "": "text/html"}[Path(path).suffix]
    assert answer.headers["content-type"].split(";")[0] == kind


@pytest.mark.parametrize("path", ["/", "/playground/main.js"])
@pytest.mark.parametrize("accepted", ["gzip, deflate, br", "identity", "gzip;q=0, identity"])
def test_who_has_a_file_is_not_sent_it_again(url: str, path: str, accepted: str) -> None:
    first = httpx2.get(url + path, headers={"Accept-Encoding": accepted})
    assert first.headers["cache-control"] == "no-cache"
    assert first.headers["vary"] == "Accept-Encoding"
    for held in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = httpx2.get(url + path, headers={"Accept-Encoding": accepted, "If-None-Match": held})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    other = httpx2.get(url + path, headers={"Accept-Encoding": accepted, "If-None-Match": '"other"'})
    assert (other.status_code, other.content) == (200, first.content)


def test_a_file_is_compressed_for_whom_takes_that_alone(url: str) -> None:
    path = "/playground/main.js"
    plain, zipped, refused = (on_the_wire(url, path, coding) for coding in ("identity", "gzip", "gzip;q=0"))
    assert gzip.decompress(zipped.body) == plain.body == refused.body
    assert "content-encoding" not in plain.headers
    assert "content-encoding" not in refused.headers
    assert zipped.headers["etag"] != plain.headers["etag"]


def on_the_wire(url: str, path: str, accepted: str) -> Answer:
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: {accepted}\r\nConnection: close\r\n\r\n"
    return exchange(url, request.encode())


@pytest.mark.parametrize("path", sorted(PATHS))
def test_head_answers_as_get_does_without_a_body(url: str, path: str) -> None:
    got, head = httpx2.get(url + path), httpx2.head(url + path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "content-type", "content-security-policy", "cache-control", "content-length"):
        assert head.headers[name] == got.headers[name]


def test_other_methods_are_refused(url: str) -> None:
    for method in ("POST", "PUT", "DELETE"):
        answer = httpx2.request(method, f"{url}/")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


TRICKS = [
    "/playground",
    "/playground/",
    "/playground/index.html",
    "/playground/page.py",
    "/playground/../page.py",
    "/playground/%2e%2e/page.py",
    "/playground/..%2fpage.py",
    "/playground/vendor/../../page.py",
    "/playground/vendor/",
    "/playground/vendor/licences/diff.txt",
    "/playground//etc/passwd",
    "/playground/%2fetc%2fpasswd",
    "/playground/main.js%00",
    "/playground/main.js/",
    "/playground/MAIN.JS",
    "/playground\\main.js",
    "/index.html",
    "//",
    "/..",
]


@pytest.mark.parametrize("path", TRICKS)
def test_a_path_leads_to_no_other_file(url: str, path: str) -> None:
    """As it is written: a client that tidies paths up would ask for something else."""
    assert on_the_wire(url, path, "identity").status == 401


def test_without_a_playground_the_root_answers_as_any_unknown_path(serve: Serve) -> None:
    without_keys, with_keys = serve(playground="off"), serve(playground="off", api_keys="me=right")
    for path in PATHS:
        assert httpx2.get(without_keys + path).status_code == 404
        assert httpx2.get(with_keys + path).status_code == 401


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        ([], True),
        (["--host", "localhost"], True),
        (["--host", "127.0.0.53"], True),
        (["--host", "::1"], True),
        (["--host", "0.0.0.0"], False),
        (["--host", "::"], False),
        (["--host", "10.1.2.3"], False),
        (["--host", "box.example"], False),
        (["--host", "0.0.0.0", "--playground", "on"], True),
        (["--host", "127.0.0.1", "--playground", "off"], False),
    ],
)
def test_it_is_shown_by_itself_to_this_machine_alone(flags: list[str], shown: bool) -> None:
    assert load_settings(flags).shows_playground is shown


def test_the_switch_is_read_from_yaml_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "slhf.yaml"
    file.write_text("playground: no\n")
    assert load_settings(["--config", str(file)]).playground == "off"
    monkeypatch.setenv("SLHF_PLAYGROUND", "true")
    assert load_settings(["--config", str(file)]).playground == "on"


def test_a_bad_switch_refuses_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLHF_PLAYGROUND", "maybe")
    with pytest.raises(SettingsError, match=r"playground: Input should be 'auto', 'on' or 'off' \(got 'maybe'\)"):
        load_settings([])


class Addresses(HTMLParser):
    """Every address in the page, every inline script and style."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.found += [value for name, value in attrs if name in ("src", "href") and value]
        if tag == "style" or (tag == "script" and "src" not in named):
            self.inline.append(tag)
        self.inline += [name for name in named if name == "style" or name.startswith("on")]


def test_the_page_asks_nobody_else_and_has_nothing_inline() -> None:
    page = Addresses()
    page.feed((FILES / "index.html").read_text())
    assert page.inline == []
    assert {f"/{name}" for name in page.found} <= PATHS
    own = [file for file in FILES.rglob("*") if file.suffix in (".js", ".css") and file.parent == FILES]
    assert len(own) > 5
    for file in own:
        text = file.read_text()
        assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+", re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)) == [], file
        assert "innerHTML" not in text, file


def test_scripts_import_what_is_served() -> None:
    for file in FILES.glob("*.js"):
        for name in re.findall(r'from "\./([^"]+)"', file.read_text()):
            assert f"/playground/{name}" in PATHS, file


def test_the_first_paint_is_small(url: str) -> None:
    """Compressed, bodies alone: everything but the licences is loaded before the page is there."""
    sizes = {path: len(on_the_wire(url, path, "gzip").body) for path in PATHS}
    assert sum(sizes.values()) <= MOST_BYTES, sizes


def test_vendored_files_are_the_published_ones() -> None:
    entries = json.loads((ROOM / "vendored.json").read_text())
    vendored = {file.name: sha256(file.read_bytes()).hexdigest() for file in (FILES / "vendor").glob("*.js")}
    assert {entry["file"]: entry["sha256"] for entry in entries} == vendored
    for entry in entries:
        assert set(entry) == {"file", "package", "version", "path", "licence", "licence_files", "sha256"}
        for licence in entry["licence_files"]:
            assert (FILES / "vendor" / "licences" / licence).read_text().strip()
