"""A model's file of a few kilobytes, and where it may be had from: wheels in parts, an installed package, a server."""

import base64
import contextlib
import hashlib
import json
import random
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CONTENT = random.Random(18).randbytes(30_000)
FILE = "fake-q4.gguf"
REVISION = "0123456789abcdef0123456789abcdef01234567"
PARTS = 2
BEGINNING = 10 << 20
"""Bytes after which a download stands on disk: huggingface_hub writes in pieces of this size."""


def listing(directory: Path, content: bytes = CONTENT, *, parts: int = PARTS, **other: Any) -> Path:
    """A file like weights.json, with one model `fake`."""
    fields = {
        "file": FILE,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "license": "Apache-2.0",
        "origin": "made up",
        "hub": {"repo": "owner/fake", "revision": REVISION, "path": FILE},
        "mirrors": {
            "member": r"fake_part\d+/data/part\d+\.bin",
            "requirements": [f"fake-part{number}==1.0" for number in range(1, parts + 1)],
        },
        "converted_bytes": 1000,
    }
    path = directory / "weights.json"
    path.write_text(json.dumps({"fake": fields | other}), encoding="utf-8")
    return path


def split(content: bytes, parts: int = PARTS) -> list[bytes]:
    size = -(-len(content) // parts)
    return [content[start : start + size] for start in range(0, len(content), size)]


def wheel(directory: Path, number: int, content: bytes, member: str | None = None) -> Path:
    """A wheel as pip takes it. Who imports its package, or runs what it brings, fails."""
    package, info = f"fake_part{number}", f"fake_part{number}-1.0.dist-info"
    files: dict[str, bytes] = {
        f"{package}/__init__.py": b"raise SystemExit('imported')",
        member or f"{package}/data/part{number:02}.bin": content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: fake-part{number}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    records = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*records, f"{info}/RECORD,,", ""]).encode()
    path = directory / f"{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def wheelhouse(directory: Path, content: bytes = CONTENT, parts: int = PARTS) -> Path:
    """A folder with the wheels that hold the content in parts."""
    directory.mkdir()
    for number, part in enumerate(split(content, parts), start=1):
        wheel(directory, number, part)
    return directory


@dataclass
class Served:
    """A server of files: the hub (`/owner/fake/resolve/...`), and the wheels with a page that links to them (`/`)."""

    content: bytes = b""
    """What it gives as the model's file."""
    wheels: Path | None = None
    stalls_at: str = ""
    """It stops in the midst of what has this in its path, after BEGINNING bytes or a half; `stalled` tells so."""
    silent: bool = False
    """It takes requests and answers none."""
    status: int = 200
    url: str = ""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and range of each request."""
    stalled: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def paths(self, method: str, ending: str) -> list[str]:
        return [path for asked, path, _ in self.asked if asked == method and path.endswith(ending)]

    def body(self, path: str) -> bytes | None:
        if path.startswith(f"/owner/fake/resolve/{REVISION}/"):
            return self.content
        if self.wheels is None:
            return None
        if path == "/":
            links = [f'<a href="/{wheel.name}">{wheel.name}</a>' for wheel in sorted(self.wheels.glob("*.whl"))]
            return f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()
        file = self.wheels / path.removeprefix("/")
        return file.read_bytes() if file.is_file() else None


@contextlib.contextmanager
def serving(served: Served) -> Iterator[Served]:
    """On a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            served.asked.append((self.command, self.path, self.headers["Range"]))
            if served.silent:
                served.over.wait(200)
                return
            body = served.body(self.path)
            if body is None or served.status != 200:
                self.send_error(404 if body is None else served.status)
                return
            start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.send_header("Content-Type", "text/html" if self.path == "/" else "application/octet-stream")
            self.send_header("ETag", '"etag"')
            self.send_header("X-Repo-Commit", REVISION)
            self.end_headers()
            if not with_body:
                return
            stalls = bool(served.stalls_at) and served.stalls_at in self.path
            rest = body[start:]
            beginning = BEGINNING if len(rest) > BEGINNING else len(rest) // 2
            self.wfile.write(rest[:beginning] if stalls else rest)
            if stalls:
                served.stalled.set()
                served.over.wait(200)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.over.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
