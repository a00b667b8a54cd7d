"""The answer, or its one fenced block, is JSON that is valid against a JSON schema."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field

from slhf.json_text import read_json
from slhf_training.checks.fences import fenced_blocks
from slhf_training.config import Section
from slhf_training.errors import SettingsError


class SchemaSettings(Section):
    model_config = ConfigDict(serialize_by_alias=True)
    kind: Literal["schema"]
    json_schema: Mapping[str, Any] = Field(alias="schema")


class Schema:
    def __init__(self, settings: SchemaSettings) -> None:
        """Raises SettingsError for what is no schema, and where the package that reads schemas is missing."""
        try:
            import jsonschema_rs
        except ModuleNotFoundError as exc:
            raise SettingsError("check: kind schema needs jsonschema-rs, which slhf-training[evaluate] brings") from exc
        try:
            self._schema = jsonschema_rs.validator_for(dict(settings.json_schema))
        except (ValueError, jsonschema_rs.ReferencingError) as exc:
            raise SettingsError(f"check.schema: {exc}") from exc

    def passed(self, answer: str) -> bool:
        blocks = fenced_blocks(answer)
        try:
            value = read_json(blocks[0] if len(blocks) == 1 else answer)
        except (ValueError, RecursionError):
            return False
        return bool(self._schema.is_valid(value))
