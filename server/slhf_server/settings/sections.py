"""What the sections of the settings share: unknown keys are errors, null means "not given", `~` is the home."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from slhf_server.settings.values import given


def _user_path(path: Any) -> Any:
    """The path with the user's home for `~`, which no shell expands in a file; "" would be the current folder."""
    if path == "":
        raise ValueError("must not be empty")
    return os.path.expanduser(path) if isinstance(path, str) else path


UserPath = Annotated[Path, BeforeValidator(_user_path)]


class Section(BaseModel):
    """A section of the settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, data: Any) -> Any:
        return given(data, cls.model_fields)
