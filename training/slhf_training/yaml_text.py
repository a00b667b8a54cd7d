"""Configurations by YAML 1.2's core schema: `no` is a name, `1e-5` a number, `010` ten, and keys are text.

PyYAML reads YAML 1.1, by which a learning rate of 1e-5 is text, a head called `no` is false, and 1:30 is 90.
"""

import re
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator

_TAG = "tag:yaml.org,2002:"


class _Word(str):
    """`yes`, `no`, `on` or `off` without quotes: text here, and a truth to vLLM, whose own files are YAML 1.1."""


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
"""What is passed on to vLLM under its own names."""
