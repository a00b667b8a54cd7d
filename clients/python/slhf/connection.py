"""How the server is reached: arguments and environment are read and checked here, where they enter.

The environment is written by others: a shell profile, a desktop's proxy settings, a secret with a line break at its
end. What cannot be used is a ConfigurationError that names the argument or the variable. It quotes no value that may
hold a secret: no key, no proxy, no address with a password or a query.
"""

import importlib.util
import ipaddress
import os
import re
import ssl
import urllib.request
from typing import Any

import httpx2

from slhf.errors import ConfigurationError

DEFAULT_BASE_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT = 600.0
CONNECT_TIMEOUT = 10.0
LONGEST_TIMEOUT = 1e9
"""Seconds, as the two above."""

_HTTP = ("http", "https")
_SOCKS = ("socks5", "socks5h")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def http_settings(base_url: str | None, api_key: str | None, timeout: float, *, own_transport: bool) -> dict[str, Any]:
    """The arguments of httpx2's clients. With a transport of the caller's own, neither proxy nor certificates are set.

    Raises ConfigurationError naming the argument or the variable that cannot be used.
    """
    url = _address(base_url)
    name, key = ("SLHF_API_KEY", os.environ.get("SLHF_API_KEY", "")) if api_key is None else ("api_key", api_key)
    key = checked_key(name, key)
    if not 0 < timeout <= LONGEST_TIMEOUT:  # this refuses NaN, too
        raise ConfigurationError(f"timeout: {timeout} is not a number of seconds above 0 and up to {LONGEST_TIMEOUT:g}")
    settings: dict[str, Any] = {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "timeout": httpx2.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT)),
        # How many requests run at once is the caller's choice; a pool that queues them would time them out.
        "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=100),
        "trust_env": False,  # what httpx2 would read is read here, as far as this one server needs it
    }
    return settings if own_transport else settings | route(url)


def _address(base_url: str | None) -> httpx2.URL:
    """The server's address without /v1, which it may end in because OpenAI's clients want it."""
    name, written = ("base_url", base_url) if base_url else ("SLHF_BASE_URL", os.environ.get("SLHF_BASE_URL"))
    written = (written or "").strip() or DEFAULT_BASE_URL
    if not written.lower().startswith(("http://", "https://")):
        raise ConfigurationError(f"{name}: an address begins with http:// or https://, like {DEFAULT_BASE_URL}")
    if "@" in written:
        raise ConfigurationError(f"{name}: it has no place for a user and password; a key is given as api_key")
    if "?" in written or "#" in written:
        raise ConfigurationError(f"{name}: it has no place for a query or a fragment")
    try:
        url = _url(written)
    except ValueError as exc:
        raise ConfigurationError(f"{name} {written!r}: {exc}") from exc
    return url.copy_with(raw_path=re.sub(rb"(/+v1)*/*$", b"", url.raw_path) or b"/")


def checked_key(name: str, key: str) -> str:
    """The key without the white space that files and shells leave at its ends; an empty one is not sent.

    Raises ConfigurationError for a key that no header can hold; `name` says there which argument or variable it is.
    """
    key = key.strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise ConfigurationError(
            f"{name}: a key consists of visible ASCII characters, and this one holds another (a typographic quote, a "
            "space, a line break?)"
        )
    if re.fullmatch(r"""(["']).*\1""", key):
        raise ConfigurationError(f"{name}: the key stands in quotes, which docker's --env-file hands on")
    return key


def route(url: httpx2.URL) -> dict[str, Any]:
    """httpx2's arguments `proxy` (None: a direct connection) and `verify` for an address, from the environment.

    Raises ConfigurationError naming the variable that cannot be used.
    """
    proxies = urllib.request.getproxies()
    scheme = url.scheme if proxies.get(url.scheme) else "all"
    address = proxies.get(scheme, "").strip()
    proxy = None
    if address and not any(_covers(entry, url) for entry in re.split(r"[,\s]+", proxies.get("no", "").lower())):
        proxy = _proxy(_variable(scheme), address)
    return {"proxy": proxy, "verify": _certificates(encrypted=url.scheme == "https")}


def _variable(scheme: str) -> str:
    """The name of the variable that a proxy comes from; on macOS and Windows it may be a setting of the system."""
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")
    return next((name for name in names if os.environ.get(name)), f"the {scheme} proxy")


def _proxy(name: str, address: str) -> httpx2.Proxy:
    try:
        url = _url(address if "://" in address else f"http://{address}")
    except ValueError as exc:
        raise ConfigurationError(f"{name}: not the address of a proxy: {exc}") from None
    if url.scheme not in (*_HTTP, *_SOCKS):
        raise ConfigurationError(f"{name}: a proxy's address begins with http://, https://, socks5:// or socks5h://")
    if url.scheme in _SOCKS and importlib.util.find_spec("socksio") is None:
        raise ConfigurationError(f"{name}: a SOCKS proxy needs one more package: pip install 'httpx2[socks]'")
    return httpx2.Proxy(url, ssl_context=_certificates(encrypted=True) if url.scheme == "https" else None)


def _certificates(*, encrypted: bool) -> ssl.SSLContext:
    if not encrypted:  # no certificate is read, so that none can be missing; this context would trust no server
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    file, folders = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    try:
        if not file and folders and not any(map(os.path.isdir, folders.split(os.pathsep))):
            raise NotADirectoryError(None, "no such directory")  # OpenSSL would say nothing and trust no server
        return httpx2.create_ssl_context()
    except OSError as exc:
        name = "SSL_CERT_FILE" if file else "SSL_CERT_DIR"
        if exc.filename and exc.filename == os.environ.get("SSLKEYLOGFILE"):
            name = "SSLKEYLOGFILE"
        where = f"{name} {os.environ[name]!r}" if os.environ.get(name) else "the system's certificates"
        raise ConfigurationError(f"{where}: {exc.strerror or type(exc).__name__}") from exc


def _url(written: str) -> httpx2.URL:
    """Parse an address. Raises ValueError, whose text quotes nothing, where no connection could be made to it."""
    if not written.isprintable() or " " in written:
        raise ValueError("it holds a character that no address has")
    try:
        url = httpx2.URL(written)
        url.raw_host.decode("ascii").encode("idna")  # as the resolver does: labels have 1 to 63 characters
    except (httpx2.InvalidURL, UnicodeError) as exc:
        raise ValueError("its host or port is none") from exc
    if not url.host or not 0 <= (url.port or 0) <= 0xFFFF:
        raise ValueError("its host or port is none")
    return url


def _covers(entry: str, url: httpx2.URL) -> bool:
    """Whether an entry of NO_PROXY covers this server.

    An entry is `*`, a host (with its subdomains), `.host` (its subdomains alone), an address or a network, each with a
    port or without.
    """
    entry = entry.rpartition("://")[2]
    if _network(entry) is None and (parts := re.fullmatch(r"(.+):([0-9]+)", entry)):
        entry, port = parts[1], int(parts[2])
        if port != (url.port or _DEFAULT_PORTS.get(url.scheme)):
            return False
    network, address = _network(entry), _network(url.host)
    if network is not None:
        return address is not None and address.version == network.version and address[0] in network
    name = entry.removeprefix("*")
    return entry == "*" or bool(name) and (url.host == name or url.host.endswith(f".{name.removeprefix('.')}"))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The address or network that the text spells; None where it is a name."""
    try:
        return ipaddress.ip_network(text.removeprefix("[").replace("]/", "/").removesuffix("]"), strict=False)
    except ValueError:
        return None
