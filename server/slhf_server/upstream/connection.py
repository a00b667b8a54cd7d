"""The HTTP client of one upstream: how it is reached through proxies and TLS, as the environment says.

What cannot work is said at start, by the name of the variable: its value may hold a password.
"""

import ipaddress
import os
import re
import ssl
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.request import getproxies

import httpx2

from slhf_server.errors import SettingsError
from slhf_server.settings import UpstreamSettings

_CONNECT_S = 10.0
_PORTS = {"http": 80, "https": 443}
_TLS_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")


def connect(label: str, settings: UpstreamSettings) -> httpx2.AsyncClient:
    """A client that sends to this upstream alone, and what is configured alone. Raises SettingsError."""
    url = httpx2.URL(str(settings.base_url))
    try:
        proxy = _proxy(url)
        encrypted = "https" in (url.scheme, proxy.url.scheme if proxy else "")
        return httpx2.AsyncClient(
            base_url=url,
            headers=_headers(settings),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            verify=_tls() if encrypted else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            proxy=proxy,
            trust_env=False,  # it would build every proxy there is, and send what .netrc holds
            follow_redirects=False,
            timeout=httpx2.Timeout(settings.timeout_s, connect=min(_CONNECT_S, settings.timeout_s)),
            limits=httpx2.Limits(max_connections=settings.max_concurrent + 1),  # and one for the probe
        )
    except ImportError:
        problem = f"{_variable(url)} names a SOCKS proxy, which needs the Python package socksio"
    except _Unusable as exc:
        problem = str(exc)
    raise SettingsError(f"upstreams.{label}: {problem}")


class _Unusable(Exception):
    """A variable of the environment that cannot work."""


def _headers(settings: UpstreamSettings) -> httpx2.Headers:
    headers = httpx2.Headers({"Accept": "application/json", "Content-Type": "application/json"})
    headers["User-Agent"] = "slhf-server"
    headers["Accept-Encoding"] = "identity"  # a compressed stream comes late, and may be a bomb
    if (key := settings.key()) is not None:
        headers["Authorization"] = f"Bearer {key.get_secret_value()}"
    headers.update({name: value.get_secret_value() for name, value in settings.extra_headers.items()})
    return headers


def _proxy(url: httpx2.URL) -> httpx2.Proxy | None:
    """The proxy on the way to this address, if there is one. Others are not looked at. Raises _Unusable."""
    proxies = getproxies()
    named = proxies.get(url.scheme) or proxies.get("all")
    if not named or _is_reached_directly(url, proxies.get("no", "")):
        return None
    try:
        proxy = httpx2.Proxy(named if "://" in named else f"http://{named}")
    except (httpx2.InvalidURL, ValueError):
        proxy = None
    if proxy is None or not re.fullmatch(rb"[\w.:-]+", proxy.url.raw_host) or (proxy.url.port or 1) > 65_535:
        raise _Unusable(f"{_variable(url)} is no proxy: http, https, socks5 or socks5h, with a host and a port")
    return proxy


def _variable(url: httpx2.URL) -> str:
    """The variable that names the proxy. Small letters come first, as in Python's own library."""
    names = (f"{url.scheme}_proxy", f"{url.scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    return next((name for name in names if os.environ.get(name)), names[1])


def _is_reached_directly(url: httpx2.URL, no_proxy: str) -> bool:
    return any(_covers(entry, url) for entry in re.split(r"[,\s]+", no_proxy.lower()) if entry)


def _covers(entry: str, url: httpx2.URL) -> bool:
    """`*`, a host and all below it, only those below it (`.host`), an address or a network; each with a port or not."""
    entry = entry.rpartition("://")[2]
    if _network(entry) is None and (parts := re.fullmatch(r"(.+):(\d+)", entry)):
        entry, port = parts[1], int(parts[2])
        if port != (url.port or _PORTS[url.scheme]):
            return False
    network, address = _network(entry), _network(url.host)
    if network is not None:
        return address is not None and address.version == network.version and address[0] in network
    name = entry.removeprefix("*")
    return name in ("", url.host) or url.host.endswith(f".{name.removeprefix('.')}")


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """None where it is a name."""
    try:
        return ipaddress.ip_network(text.removeprefix("[").replace("]/", "/").removesuffix("]"), strict=False)
    except ValueError:
        return None


def _tls() -> ssl.SSLContext:
    """Raises _Unusable."""
    folder = os.environ.get("SSL_CERT_DIR")
    if folder and not os.environ.get("SSL_CERT_FILE") and not os.path.isdir(folder):
        raise _Unusable("SSL_CERT_DIR: no such directory")
    try:
        return httpx2.create_ssl_context()
    except OSError as exc:  # ssl.SSLError, where a file holds no certificates, is one
        given = " or ".join(name for name in _TLS_VARIABLES if os.environ.get(name)) or "the system's certificates"
        raise _Unusable(f"{given} cannot be used: {exc.strerror or exc.__class__.__name__}") from exc
