"""Where settings come from beside flags: the environment, and the YAML file."""

import os
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from slhf_server.settings.problem import SettingsError
from slhf_server.settings.variables import is_service_link
from slhf_server.settings.yaml_text import quoted, read_file


class Environment(EnvSettingsSource):
    """The environment without links to services and without blank variables, as Compose's `${VARIABLE:-}` passes."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        variables = self.env_vars.items()
        self.env_vars = {
            name: text for name, text in variables if text and text.strip() and not is_service_link(name, text)
        }

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        return quoted(super().decode_complex_value(field_name, field, value))


class ConfigFile(PydanticBaseSettingsSource):
    """The YAML file that a flag or the environment names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the file is read whole, in __call__

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("config")
        if path is None:
            return {}
        content = read_file("config", Path(os.path.expanduser(str(path).strip())))
        if content is not None and not isinstance(content, dict):
            kind = "list" if isinstance(content, list) else "text"
            raise SettingsError(f"config {path}: must be a mapping of settings, not {kind}")
        if content and content.get("config") is not None:
            raise SettingsError(f"config {path}: config: a file does not name another (got {str(content['config'])!r})")
        return content or {}
