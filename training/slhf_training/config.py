"""Reads configurations: a pydantic model checks a file, and errors name an unknown key or a bad value. Keys of other
servers, and proxies on the way to them, are read as the client reads them.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args

import httpx2
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    SerializationInfo,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from slhf.connection import checked_key, route
from slhf.errors import ConfigurationError
from slhf.json_text import read_json
from slhf_training.errors import SettingsError

_TAG = "tag:yaml.org,2002:"


class _Word(str):
    """`yes`, `no`, `on` or `off` without quotes: text here, and a boolean to vLLM, whose own files are YAML 1.1."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = f"{_TAG}str"
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        text: str = node.value
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))

    def construct_word(self, node: yaml.ScalarNode) -> _Word:
        return _Word(node.value)


for _name, _pattern in {
    "null": "~|null|Null|NULL|",
    "bool": "true|True|TRUE|false|False|FALSE",
    "word": "(?i:yes|no|on|off)",
    "int": "[-+]?[0-9]+(?:_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "merge": "<<",
}.items():
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"(?:{_pattern})\\Z"), None)
_Loader.add_constructor(f"{_TAG}int", _Loader.construct_integer)
_Loader.add_constructor(f"{_TAG}word", _Loader.construct_word)


def read_yaml(data: bytes) -> Any:
    """The value that the file's content holds. Raises yaml.YAMLError, ValueError or RecursionError."""
    return yaml.load(data, _Loader)


def _truths(value: Any) -> Any:
    match value:
        case dict():
            return {name: _truths(item) for name, item in value.items()}
        case list():
            return [_truths(item) for item in value]
        case _Word():
            return value.lower() in ("yes", "on")
        case _:
            return value


EngineArguments = Annotated[dict[str, Any], BeforeValidator(_truths)]
"""Arguments that are passed on to vLLM under its own names."""


class Section(BaseModel):
    """A mapping of a configuration; a default is written once, at its field."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="strings")

    @model_validator(mode="before")
    @classmethod
    def _given(cls, data: Any) -> Any:
        """Drop nulls, which mean "not given", but where None says something; a section that is null is empty."""
        if not isinstance(data, dict):
            return {} if data is None else data
        never_null = {name for name, field in cls.model_fields.items() if NoneType not in get_args(field.annotation)}
        return {name: value for name, value in data.items() if value is not None or name not in never_null}


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    root: Path | None = (info.context or {}).get("root")
    return path.expanduser() if root is None else root.absolute() / path.expanduser()


def _model_name(name: str, info: ValidationInfo) -> str:
    return str(_beside_the_file(Path(name), info)) if name.startswith((".", "/", "~")) else name


def _written(path: Path, info: SerializationInfo[Any]) -> str:
    return path.name if (info.context or {}).get("portable") else str(path)


RelativePath = Annotated[Path, AfterValidator(_beside_the_file), PlainSerializer(_written, when_used="json")]
"""A path; a relative one starts at the configuration's own folder. Written whole, or as its name (see `portable`)."""

ModelName = Annotated[str, AfterValidator(_model_name)]
"""A Hugging Face hub id, or a path that starts with ".", "/" or "~"; a relative one as `RelativePath`."""

Settings = TypeVar("Settings", bound=Section)


def read_config(path: Path, kind: type[Settings], instead: Mapping[str, Any] | None = None) -> Settings:
    """The checked YAML (or, by its name, JSON) file; `instead` replaces keys of its top.

    Raises SettingsError naming the file and each bad key.
    """
    content = read_mapping(path) | dict(instead or {})
    try:
        return kind.model_validate(content, context={"root": path.parent})
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {_said(e)}" for e in exc.errors())
        raise SettingsError(f"{path}: {problems}") from exc


def read_mapping(path: Path) -> dict[str, Any]:
    """The file's keys, unchecked. Raises SettingsError naming the file."""
    parse = read_json if path.suffix == ".json" else read_yaml
    try:
        content = parse(path.read_bytes()) or {}
    except OSError as exc:
        raise SettingsError(f"{path}: {exc.strerror}") from exc
    except RecursionError as exc:
        raise SettingsError(f"{path}: values are nested too deeply") from exc
    except (ValueError, yaml.YAMLError) as exc:
        raise SettingsError(f"{path}: {exc}") from exc
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: expected keys and values, got {type(content).__name__}")
    return content


def portable(section: Section) -> dict[str, Any]:
    """What was chosen, as JSON for readers on other machines, with only the names of paths."""
    return section.model_dump(mode="json", exclude_defaults=True, context={"portable": True})


def _said(error: Any) -> str:
    given = "" if isinstance(error["input"], dict) else f", got {error['input']!r}"
    return f"{error['msg']}{given}"


def authorization(variable: str | None, setting: str) -> dict[str, str]:
    """The header with the key of that environment variable; no header for None.

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
    """A client that uses the environment's proxy for this server, if there is one.

    Raises SettingsError, which begins with `setting` and quotes no secret.
    """
    try:
        address = httpx2.URL(url)
        return httpx2.Client(base_url=address, headers=headers, timeout=timeout, trust_env=False, **route(address))
    except (httpx2.InvalidURL, ConfigurationError) as exc:
        raise SettingsError(f"{setting}: {exc}") from exc
