"""Which route a request is for. Keys, the access log and the failure metric ask here, so that they see what is served.

An application may lie under a prefix (a mount, a proxy's `root_path`). The scope's `path` is then not what the router
matches.
"""

from starlette._utils import get_route_path  # private, but it is what the router itself calls; imported here alone
from starlette.types import Scope

OPEN = frozenset(
    {"/health", "/ready", "/metrics", "/version", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}
)
"""The routes that need no key and are not logged: probes, scrapers and the description. Every other one does and is."""


def route_path(scope: Scope) -> str:
    """The path below the prefix. `$` in Starlette's patterns lets a newline follow, which therefore says nothing."""
    return get_route_path(scope).removesuffix("\n")


def is_open(scope: Scope) -> bool:
    return route_path(scope) in OPEN
