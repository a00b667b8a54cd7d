"""The other servers that training asks: their keys, and the way to them, read as the client reads them."""

import os

import httpx2

from slhf.connection import checked_key, route
from slhf.errors import ConfigurationError
from slhf_training.errors import SettingsError


def authorization(variable: str | None, setting: str) -> dict[str, str]:
    """The header with the key of that environment variable; none for None.

    Raises SettingsError, which begins with `setting` and never holds the key.
    """
    if variable is None:
        return {}
    try:
        key = checked_key(variable, os.environ.get(variable, ""))
    except ConfigurationError as exc:
        raise SettingsError(f"{setting}: {exc}") from exc
    if not key:
        raise SettingsError(f"{setting}: {variable} is not set")
    return {"authorization": f"Bearer {key}"}


def client_of(url: str, setting: str, headers: dict[str, str], timeout: float) -> httpx2.Client:
    """By the environment's proxy, if it has one for this server. Raises SettingsError as above."""
    try:
        address = httpx2.URL(url)
        return httpx2.Client(base_url=address, headers=headers, timeout=timeout, trust_env=False, **route(address))
    except (httpx2.InvalidURL, ConfigurationError) as exc:
        raise SettingsError(f"{setting}: {exc}") from exc
