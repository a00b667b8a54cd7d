"""The HTTP client of one upstream. The way to it, through proxies and TLS, is read as the client library reads it."""

from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from slhf.connection import CONNECT_TIMEOUT, route
from slhf.errors import ConfigurationError
from slhf_server.settings.endpoints import UpstreamSettings
from slhf_server.settings.problem import SettingsError


def connect(label: str, settings: UpstreamSettings) -> httpx2.AsyncClient:
    """A client that sends to this upstream alone, and only what is configured.

    Raises SettingsError naming the variable of the environment that cannot work.
    """
    url = httpx2.URL(str(settings.base_url))
    try:
        way = route(url)
    except ConfigurationError as exc:
        raise SettingsError(f"upstreams.{label}: {exc}") from exc
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


def _headers(settings: UpstreamSettings) -> httpx2.Headers:
    headers = httpx2.Headers({"Accept": "application/json", "Content-Type": "application/json"})
    headers["User-Agent"] = "slhf-server"
    headers["Accept-Encoding"] = "identity"  # a compressed stream comes late, and may be a bomb
    if (key := settings.key()) is not None:
        headers["Authorization"] = f"Bearer {key.get_secret_value()}"
    headers.update({name: value.get_secret_value() for name, value in settings.extra_headers.items()})
    return headers
