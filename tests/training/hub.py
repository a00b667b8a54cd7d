"""The Hugging Face hub as a push and a download meet it, on 127.0.0.1: its published HTTP API, with files in memory."""

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_writes"
COMMIT = "5" * 40


@dataclass
class Hub:
    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """By repository and path."""
    visibility: dict[str, str] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    """The first line of each."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    """By sha256: what was sent as large."""
    sent: int = 0
    """How many blobs were sent."""

    def post(self, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {}
        if "/preupload/" in path:
            files = [file["path"] for file in json.loads(body)["files"]]
            return 200, {"files": [{"path": p, "uploadMode": _mode(p), "shouldIgnore": False} for p in files]}
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, {"objects": [self._action(known) for known in json.loads(body)["objects"]]}
        repo = path.removeprefix("/api/models/").partition("/commit/")[0]
        for line in body.splitlines():
            self._commit(repo, **json.loads(line))
        return 200, {"commitUrl": f"{self.url}/{repo}/commit/{COMMIT}", "commitOid": COMMIT}

    def put(self, path: str, body: bytes) -> tuple[int, Any]:
        self.blobs[path.removeprefix("/blobs/")] = body
        self.sent += 1
        return 200, {}

    def get(self, path: str) -> tuple[int, Any]:
        owner, name, *rest = path.removeprefix("/api/models").strip("/").split("/")
        files = self.files.get(f"{owner}/{name}")
        match rest:
            case _ if files is None:
                return 404, {"error": "Repository not found"}
            case ["resolve", _, *parts]:
                return 200, files["/".join(parts)]
            case ["tree", _]:
                return 200, [_listed(path, content) for path, content in files.items()]
            case _:
                return 200, {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": []}

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        repo = f"{asked['organization'] or 'me'}/{asked['name']}"
        if repo in self.files:
            return 409, {"url": f"{self.url}/{repo}", "error": "You already created this model repo"}
        self.files[repo], self.visibility[repo] = {}, asked["visibility"]
        return 200, {"url": f"{self.url}/{repo}"}

    def _action(self, known: dict[str, Any]) -> dict[str, Any]:
        upload = {"upload": {"href": f"{self.url}/blobs/{known['oid']}"}}
        return known | ({} if known["oid"] in self.blobs else {"actions": upload})

    def _commit(self, repo: str, key: str, value: dict[str, Any]) -> None:
        if key == "header":
            self.commits.append(value["summary"])
        elif key == "lfsFile":
            self.files[repo][value["path"]] = self.blobs[value["oid"]]
        else:
            assert (key, value["encoding"]) == ("file", "base64")
            self.files[repo][value["path"]] = base64.b64decode(value["content"])


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


def _listed(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    here = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if self.headers["authorization"] != f"Bearer {TOKEN}":
                self._say(401, {"error": "Invalid username or password."})
            else:
                self._say(*here.post(self.path, self._body()))

        def do_PUT(self) -> None:
            self._say(*here.put(self.path, self._body()))

        def do_GET(self) -> None:
            self._say(*here.get(self.path.partition("?")[0]))

        do_HEAD = do_GET

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers["content-length"]))

        def _say(self, status: int, body: Any) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            if status != 200:
                self.send_header("x-error-message", str(body.get("error")))
            self.send_header("content-length", str(len(content)))
            self.send_header("etag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("x-repo-commit", COMMIT)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Silence: tests read `commits` and `files`."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        here.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield here
        finally:
            server.shutdown()
            thread.join(10)
