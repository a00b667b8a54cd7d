"""Reads YAML as people write it, by version 1.2's core schema. Scalars stay text until their setting is known.

`model: 4.10` and `models: {yes: ...}` are names, and a loader that made a number or a boolean of them would lose what
was written. Keys of mappings are text at every depth, none stands there twice, and no message quotes the file.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import ParserError
from yaml.reader import ReaderError
from yaml.scanner import ScannerError

from slhf_server.settings.problem import SettingsError

_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile("[-+]?[0-9]+(?:_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_MOST_DIGITS = 1000
"""Longer integers are read as floats, which makes them infinite; Python refuses to read more than 4300 digits."""
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class Plain(str):
    """A scalar without quotes, whose type depends on the setting."""


class Quoted(str):
    """A scalar in quotes, or a block, which is text whatever it holds."""


class NotYAML(ValueError):
    """A text is not YAML; the message says where and why, and quotes nothing."""


class _Refused(yaml.MarkedYAMLError):
    """An error of ours, whose message quotes nothing of the text."""

    def __init__(self, problem: str, node: Node) -> None:
        super().__init__(problem=problem, problem_mark=node.start_mark)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}
    yaml_constructors = {}

    def scan_to_next_token(self) -> None:
        """Skip tabs, too, which may stand between tokens, and before them in JSON; PyYAML skips spaces alone."""
        line, column = self.line, self.column
        super().scan_to_next_token()
        while self.peek() == "\t" and (self.flow_level or (column > 0 and self.line == line)):
            self.forward()
            super().scan_to_next_token()

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:
        tag: str = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        return f"{_TAG}plain" if kind is ScalarNode and implicit[0] and tag == f"{_TAG}str" else tag

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        """Check that no key stands there twice, before merge keys (`<<`) are resolved, which may repeat one."""
        node: MappingNode = super().compose_mapping_node(anchor)
        names: set[str] = set()
        for key in (key for key, _ in node.value if key.tag != f"{_TAG}merge"):
            if not isinstance(key, ScalarNode):
                raise _Refused("a key must be text", key)
            if key.value in names:
                shown = f" {key.value!r}" if re.fullmatch("[a-z0-9_]{1,32}", key.value) else ""
                raise _Refused(f"the key{shown} stands there twice", key)
            names.add(key.value)
        return node

    def construct(self, node: Node) -> Any:
        match node:
            case MappingNode():
                self.flatten_mapping(node)
                return {str(key.value): self.construct_object(value, deep=True) for key, value in node.value}
            case SequenceNode():
                return [self.construct_object(item, deep=True) for item in node.value]
            case ScalarNode(tag=tag) if tag == f"{_TAG}null":
                return None
            case ScalarNode(tag=tag) if tag == f"{_TAG}str":
                return Quoted(node.value)
            case _:
                return Plain(node.value)

    def refuse(self, node: Node) -> Any:
        raise _Refused("an unknown tag", node)


_Loader.add_implicit_resolver(f"{_TAG}null", re.compile("^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(f"{_TAG}merge", re.compile("^<<$"), ["<"])
for _name in ("map", "seq", "str", "plain", "null", "bool", "int", "float"):
    _Loader.add_constructor(f"{_TAG}{_name}", _Loader.construct)
_Loader.add_constructor(None, _Loader.refuse)


def read(text: str) -> Any:
    """The text's value, made of dicts, lists, `Plain`, `Quoted` and None. Raises NotYAML."""
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        raise NotYAML(
            f"not YAML at line {line}: the character U+{ord(text[exc.position]):04X} is not allowed"
        ) from None
    except yaml.MarkedYAMLError as exc:
        line = 1 if exc.problem_mark is None else exc.problem_mark.line + 1
        raise NotYAML(f"not YAML at line {line}: {_problem(exc)}") from None
    except RecursionError:
        raise NotYAML("not YAML that can be read: nested too deeply") from None


def _problem(exc: yaml.MarkedYAMLError) -> str:
    """The error's message. Scanner and parser quote the handle of a tag, too, which may be the head of a secret."""
    if exc.context == "expected a single document in the stream":
        return "a second document (---) begins"
    if isinstance(exc, ScannerError | ParserError | _Refused) and exc.problem is not None:
        return exc.problem if isinstance(exc, _Refused) else re.sub("'!.*'", "'!...'", exc.problem)
    return "bad alias, tag or key"


def read_file(setting: str, path: Path) -> Any:
    """The value of the file that a setting names, as `read` gives it. Raises SettingsError naming both."""
    try:
        return read(path.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise SettingsError(f"{setting} {path}: {exc.strerror}") from None
    except UnicodeDecodeError as exc:
        raise SettingsError(f"{setting} {path}: not utf-8 text: byte {exc.start + 1} is no part of any") from None
    except ValueError as exc:  # NotYAML, and a path that cannot be one
        raise SettingsError(f"{setting} {path}: {exc}") from None


def quoted(value: Any) -> Any:
    """A value of JSON with its strings marked as quoted."""
    match value:
        case dict():
            return {name: quoted(item) for name, item in value.items()}
        case list():
            return [quoted(item) for item in value]
        case str():
            return Quoted(value)
        case _:
            return value


def number(text: str) -> int | float | str:
    """The number that a text spells, or the text itself. Helm writes large integers as 4.194304e+06."""
    if _INTEGER.fullmatch(text) and len(text) < _MOST_DIGITS:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _NO_NUMBER.fullmatch(text):
        return float(text.replace(".", ""))
    if not _FLOAT.fullmatch(text):
        return text
    value = float(text)
    return int(value) if "e" in text.lower() and value.is_integer() else value


def typed(value: Any) -> Any:
    """A value to pass on: numbers are numbers; yes, on, no and off are booleans, as in vLLM's own files."""
    match value:
        case dict():
            return {name: typed(item) for name, item in value.items()}
        case list():
            return [typed(item) for item in value]
        case Plain():
            return _BOOLEANS[value.lower()] if value.lower() in _BOOLEANS else number(str(value))
        case Quoted():
            return str(value)
        case _:
            return value
