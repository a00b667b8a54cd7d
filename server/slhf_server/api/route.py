"""Which route a request is for. Keys, the access log and the failure metric ask here, so that they see what is served.

An application may lie under a prefix (a mount, a proxy's `root_path`). The scope's `path` is then not what the router
matches.
"""

from starlette._utils import get_route_path  # private, but it is what the router itself calls; imported here alone
from starlette.types import Scope

OPEN = frozenset(
    {"/health", "/ready", "/metrics", "/version", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}
)
"""The routes that need no key and are not logged: those of probes and scrapers, and the API's description."""
METRICS = frozenset({"/metrics"})
"""The one of them that needs the operators' key where it tells of clients (`metrics_by_key`)."""


def route_path(scope: Scope) -> str:
    """The path below the prefix, without the one newline that `$` in Starlette's patterns lets follow."""
    return get_route_path(scope).removesuffix("\n")


def is_open(scope: Scope, routes: frozenset[str]) -> bool:
    """Whether the request is for one of the routes that need no key."""
    return route_path(scope) in routes
