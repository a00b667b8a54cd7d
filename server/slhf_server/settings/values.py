"""Reads what flags, environment and file give for a setting as its type wants it. Null means "not given"."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AnyHttpUrl, BaseModel, SecretStr
from pydantic.fields import FieldInfo

from slhf_server.settings.redaction import is_secret, without_secrets
from slhf_server.settings.yaml_text import NotYAML, number, read, typed

_READ_BY_PYDANTIC = (str, bool, int, float, NoneType, Path, SecretStr, AnyHttpUrl, BaseModel)
"""Types that take text as it was written; a value of any other type is passed on to others."""


def given(data: Any, fields: Mapping[str, FieldInfo]) -> Any:
    """A section without its nulls and with its scalars read. Null is an empty section; any other value stays."""
    if data is None:
        return {}
    if not isinstance(data, dict):
        return data
    return {
        name: _read(name, value, fields[name].annotation) if name in fields else value
        for name, value in data.items()
        if value is not None or name not in fields
    }


def _read(name: str, value: Any, annotation: Any) -> Any:
    types = set(_types(annotation)) - {Ellipsis}  # of tuple[str, ...]
    if not all(isinstance(one, type) and issubclass(one, _READ_BY_PYDANTIC) for one in types):
        return _passed_on(name, value)
    if isinstance(value, list):
        return [_stripped(item) for item in value if item is not None]
    if isinstance(value, dict) and not any(issubclass(one, BaseModel) for one in types):
        return {key: _stripped(item) for key, item in value.items() if item is not None}
    value = _stripped(value)
    return number(value) if isinstance(value, str) and types - {NoneType} <= {int, float} else value


def _stripped(value: Any) -> Any:
    """Text without white space at its ends, which variables and blocks of YAML bring along."""
    return value.strip() if isinstance(value, str) else value


def _passed_on(name: str, value: Any) -> Any:
    """Arguments by name, which are passed on. Flags and variables bring text, which is read as in the file."""
    if not isinstance(value, dict):
        return typed(value)
    arguments = {}
    for argument, item in value.items():
        try:
            arguments[argument] = typed(read(item) if type(item) is str else item)
        except NotYAML as exc:
            shown = "" if is_secret(argument) else f" (got {without_secrets(item)!r})"
            raise ValueError(f"{name}.{argument}: {exc}{shown}") from exc
    return arguments


def _types(annotation: Any) -> Iterator[Any]:
    """Yield the types of which an annotation is made."""
    if get_origin(annotation) is Literal:
        yield from map(type, get_args(annotation))
    elif get_origin(annotation) is Annotated:
        yield from _types(get_args(annotation)[0])
    elif parts := get_args(annotation):
        for part in parts:
            yield from _types(part)
    else:
        yield annotation
