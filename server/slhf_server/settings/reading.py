"""Reads settings from flags, environment and file, and says what is wrong with them in words that quote no secret."""

import os
import re
from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError as SourceError

from slhf_server.settings.endpoints import RemoteEngineSettings, UpstreamSettings
from slhf_server.settings.judging import JudgeSettings
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.redaction import is_secret, without_secrets
from slhf_server.settings.server import Settings
from slhf_server.settings.variables import OTHERS, PREFIX, is_service_link
from slhf_server.settings.yaml_text import number

_MOST_SHOWN = 200
"""Characters of a refused value."""
_KEYS = (
    *("api_keys", "api_keys_file", "api_key", "api_key_file", "cache_salt_secret"),
    *("admin_key", "admin_key_file"),
)
"""Settings that hold keys. An empty variable must not leave the server open, or without its key, by accident."""
_HIDDEN = {"api_key", "base_url", "extra_body", "extra_headers"}
_SHOWN = {
    "upstreams": UpstreamSettings.model_fields.keys() - _HIDDEN,
    "remote_engines": RemoteEngineSettings.model_fields.keys() - _HIDDEN,
    "judges": JudgeSettings.model_fields.keys() - {"reward"},
}
"""Settings of other servers whose values an error may show."""


def load_settings(argv: Sequence[str]) -> Settings:
    """Settings from all sources. Raises SettingsError naming key and value; a bad flag exits with usage."""
    for variable, text in os.environ.items():
        _check(variable, text)
    try:
        return Settings(_cli_parse_args=list(argv))
    except ValidationError as exc:
        raise SettingsError("; ".join(map(_problem, exc.errors()))) from None  # the ValidationError holds the values
    except SourceError as exc:
        raise SettingsError(_unread(exc)) from None


def _check(variable: str, text: str) -> None:
    """Raises SettingsError for an environment variable of ours that is no setting, or an empty key."""
    name = variable.upper()  # pydantic-settings reads them in either case
    if not name.startswith(PREFIX) or name in OTHERS or is_service_link(name, text):
        return
    setting, *nested = name.removeprefix(PREFIX).lower().split("__")
    mappings = ("models", *_SHOWN, "profiles", "limits", "engine")
    if setting not in Settings.model_fields or (nested and setting not in mappings) or "" in nested:
        raise SettingsError(f"environment variable {variable}: no such setting")
    if [setting, *nested][-1] in _KEYS and setting != "engine" and not text.strip():
        key = ".".join([setting, *nested])
        raise SettingsError(f"{key} is empty: unset the environment variable {variable}, or give it a value")


def _unread(error: SourceError) -> str:
    """The message about a flag or a variable that must be JSON and cannot be read as such."""
    named = re.search(r'(?:for field "|encountered for )([\w.-]+)', str(error))
    return f"{named[1] if named else error}: neither JSON nor key=value: {error.__cause__}"


def _problem(error: ErrorDetails) -> str:
    """The message with key, problem and value, but without a value that may be a secret."""
    where = [str(part) for part in error["loc"]]
    named = ": ".join([".".join(where), error["msg"]] if where else [error["msg"].removeprefix("Value error, ")])
    shown = repr(without_secrets(error["input"]))
    return f"{named} (got {shown[:_MOST_SHOWN]})" if where and _may_be_shown(where, error) else named


def _may_be_shown(where: list[str], error: ErrorDetails) -> bool:
    """Whether a value is known to be no secret; the value of a mistyped key may be one."""
    value = error["input"]
    if where[0] in _SHOWN:
        return len(where) == 3 and where[2] in _SHOWN[where[0]] and not isinstance(value, dict | list)
    if error["type"] == "extra_forbidden":
        return not isinstance(number(str(value)), str)
    return not is_secret(where[-1])
