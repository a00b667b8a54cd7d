"""Configurations: a YAML file checked by a pydantic model. An unknown key or a bad value names itself."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

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


def read_config(path: Path, kind: type[Settings], instead: Path | None = None) -> Settings:
    """The checked configuration. `instead`: a file whose top keys replace this one's; its relative paths start at this
    one's folder, too. Raises SettingsError naming the file and the key."""
    content = _mapping(path) | (_mapping(instead) if instead is not None else {})
    try:
        return kind.model_validate(content, context={"root": path.parent})
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in exc.errors())
        raise SettingsError(f"{path}: {problems}") from exc


def _mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SettingsError(f"{path}: {exc.strerror}") from exc
    except (UnicodeDecodeError, yaml.YAMLError) as exc:
        raise SettingsError(f"{path}: not YAML: {exc}") from exc
    if not isinstance(content or {}, dict):
        raise SettingsError(f"{path}: expected keys and values, got {type(content).__name__}")
    return content or {}
