"""The HTTP client of one address: an upstream's, or a remote engine's.

The way to it, through proxies and TLS, is read as the client library reads it.
"""

from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from slhf.connection import CONNECT_TIMEOUT, route
from slhf.errors import ConfigurationError
from slhf_server.settings.endpoints import EndpointSettings
from slhf_server.settings.problem import SettingsError


def connect(setting: str, base_url: str, settings: EndpointSettings) -> httpx2.AsyncClient:
    """A client that sends to this address alone, and only what is configured.

    Raises SettingsError naming the setting and the variable of the environment that cannot work.
    """
    url = httpx2.URL(base_url)
    try:
        way = route(url)
    except ConfigurationError as exc:
        raise SettingsError(f"{setting}: {exc}") from exc
    return httpx2.AsyncClient(
        base_url=url,
        headers=_headers(settings),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        trust_env=False,  # it would build every proxy there is, and send what .netrc holds
        follow_redirects=False,
        timeout=httpx2.Timeout(settings.timeout_s, connect=min(CONNECT_TIMEOUT, settings.timeout_s)),
        limits=httpx2.Limits(max_connections=settings.max_concurrent + 1),  # and one for the probe
        **way,
    )


def _headers(settings: EndpointSettings) -> httpx2.Headers:
    headers = httpx2.Headers({"Accept": "application/json", "Content-Type": "application/json"})
    headers["User-Agent"] = "slhf-server"
    headers["Accept-Encoding"] = "identity"  # a compressed stream comes late, and may be a bomb
    if (key := settings.key()) is not None:
        headers["Authorization"] = f"Bearer {key.get_secret_value()}"
    headers.update({name: value.get_secret_value() for name, value in settings.extra_headers.items()})
    return headers
