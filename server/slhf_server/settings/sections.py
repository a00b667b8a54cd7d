"""What sections of the settings have in common: unknown keys are errors, null is "not given", `~` is the home."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from slhf_server.settings.values import given


def _user_path(path: Any) -> Any:
    """With the user's home for `~`, which no shell writes out in a file; "" would be the folder where we are."""
    if path == "":
        raise ValueError("must not be empty")
    return os.path.expanduser(path) if isinstance(path, str) else path


UserPath = Annotated[Path, BeforeValidator(_user_path)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, data: Any) -> Any:
        return given(data, cls.model_fields)
