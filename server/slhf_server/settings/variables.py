"""Knows the `SLHF_*` variables that are not the server's: the scripts', the client's, and links to services.

A Service whose name is `slhf`, or begins with `slhf-`, makes Kubernetes give `SLHF_SERVICE_HOST`, `SLHF_PORT=tcp://...`
and more to every pod of its namespace that does not say `enableServiceLinks: false`.
"""

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address

PREFIX = "SLHF_"
OTHERS = {"SLHF_VENV", "SLHF_EXTRA", "SLHF_BASE_URL", "SLHF_API_KEY", "SLHF_MODEL"}
"""Variables of the scripts and of the client."""


def _is_address(value: str) -> bool:
    try:
        ip_address(value)
    except ValueError:
        return False
    return True


def _is_port(value: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", value) is not None and 0 < int(value) < 65536


def _is_url(value: str) -> bool:
    parts = re.fullmatch(r"(?:tcp|udp|sctp)://(\[[^]]+]|[^:]+):([0-9]+)", value)
    return parts is not None and _is_address(parts[1].strip("[]")) and _is_port(parts[2])


_SERVICE = r"SLHF(?:_\w+)?"
_ONE_PORT = rf"{_SERVICE}_PORT_[0-9]+_(?:TCP|UDP|SCTP)"
_LINKS: dict[str, Callable[[str], bool]] = {
    rf"{_SERVICE}_SERVICE_HOST|{_ONE_PORT}_ADDR": _is_address,
    rf"{_SERVICE}_SERVICE_PORT(?:_\w+)?|{_ONE_PORT}_PORT": _is_port,
    rf"{_SERVICE}_PORT|{_ONE_PORT}": _is_url,
    rf"{_ONE_PORT}_PROTO": lambda value: value in ("tcp", "udp", "sctp"),
}


def is_service_link(variable: str, value: str) -> bool:
    """Whether a variable links to a service, by name *and* value, so that `SLHF_PORT=9000` is a setting."""
    return any(re.fullmatch(name, variable.upper()) and fits(value) for name, fits in _LINKS.items())


def service_links(environ: Mapping[str, str]) -> list[str]:
    """The variables that are links to services, which configure nothing."""
    return sorted(name for name, value in environ.items() if is_service_link(name, value))
