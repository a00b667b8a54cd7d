"""Serves the playground: a fixed list of files, read once, each with its own route and the headers that shut it in.

No path of a request becomes the path of a file: what is not listed does not exist.
"""

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

from fastapi import Request, Response
from starlette.routing import Route

_SCRIPTS = (
    "main.js",
    "form.js",
    "request.js",
    "stream.js",
    "run.js",
    "rounds.js",
    "text.js",
    "blind.js",
    "card.js",
    "share.js",
    "vendor/htm-preact.js",
    "vendor/diff.js",
    "vendor/marked.js",
    "vendor/purify.js",
)
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_STYLES = ("playground.css", "form.css", "rounds.css", "markdown.css")
_ADDRESSES = {"/": "index.html"} | {f"/playground/{name}": name for name in (*_STYLES, "icon.svg", *_SCRIPTS)}
PATHS = frozenset(_ADDRESSES)
"""The routes of the page. None needs a key: a browser could not send one before the page is there to ask for it."""

HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "object-src 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types dompurify",  # the sanitiser is the only one that may make elements of text
        )
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_REFUSES_GZIP = re.compile(r"q=0(?:\.0*)?")


@dataclass(frozen=True, slots=True)
class _Variant:
    """A file's bytes in one encoding. Their digest is the entity tag, so a browser asks again and gets a 304."""

    content: bytes
    etag: str
    encoding: dict[str, str]


def routes() -> Iterator[Route]:
    """A route for each file of the page."""
    for path, name in _ADDRESSES.items():
        yield _route(path, name)


def _route(path: str, name: str) -> Route:
    content = files("slhf_server.api.playground").joinpath("files", name).read_bytes()
    plain = _variant(content, {})
    zipped = _variant(gzip.compress(content, mtime=0), {"Content-Encoding": "gzip"})
    common = HEADERS | {"Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    media_type = _TYPES[name.rpartition(".")[2]]

    async def answer(request: Request) -> Response:
        variant = zipped if _takes_gzip(request.headers.get("accept-encoding", "")) else plain
        headers = common | {"ETag": variant.etag}
        if _has(request.headers.get("if-none-match", ""), variant.etag):
            return Response(status_code=304, headers=headers)
        return Response(variant.content, headers=headers | variant.encoding, media_type=media_type)

    return Route(path, answer, methods=["GET"], include_in_schema=False)


def _variant(content: bytes, encoding: dict[str, str]) -> _Variant:
    return _Variant(content, f'"{sha256(content).hexdigest()[:32]}"', encoding)


def _takes_gzip(accepted: str) -> bool:
    """Whether the header `Accept-Encoding` names gzip and does not refuse it (`gzip;q=0`)."""
    for entry in accepted.lower().split(","):
        coding, _, weight = entry.partition(";")
        if coding.strip() == "gzip":
            return _REFUSES_GZIP.fullmatch(weight.strip()) is None
    return False


def _has(if_none_match: str, etag: str) -> bool:
    """Whether the client holds the file already. Tags are compared weakly, as RFC 9110 wants it for this header."""
    held = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in held or held == ["*"]
