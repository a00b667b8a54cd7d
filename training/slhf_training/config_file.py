"""Configurations: a YAML file checked by a pydantic model. An unknown key or a bad value names itself."""

from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo

from slhf_training.errors import SettingsError


class Section(BaseModel):
    """A mapping of a configuration; a default is written once, at its field."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    root: Path | None = (info.context or {}).get("root")
    return path.expanduser() if root is None else root / path.expanduser()


def _model_name(name: str, info: ValidationInfo) -> str:
    return str(_beside_the_file(Path(name), info)) if name.startswith((".", "/", "~")) else name


RelativePath = Annotated[Path, AfterValidator(_beside_the_file)]
"""A path; a relative one starts at the configuration's own folder."""

ModelName = Annotated[str, AfterValidator(_model_name)]
"""A Hugging Face hub id, or a path that starts with ".", "/" or "~"; a relative one as `RelativePath`."""

Settings = TypeVar("Settings", bound=Section)


def read_config(path: Path, kind: type[Settings]) -> Settings:
    """The checked configuration. Raises SettingsError naming the file and the key."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SettingsError(f"{path}: {exc.strerror}") from exc
    except yaml.YAMLError as exc:
        raise SettingsError(f"{path}: not YAML: {exc}") from exc
    try:
        return kind.model_validate(content or {}, context={"root": path.parent})
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in exc.errors())
        raise SettingsError(f"{path}: {problems}") from exc
