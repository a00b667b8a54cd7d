"""Writes docs/training-settings.md: every key of every configuration of slhf-train, from the code that reads it.

    python scripts/settings_reference.py

Types, limits and defaults are those of the JSON schemas that pydantic gives; what a key means is its docstring.
"""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from slhf_training.distill import DistillSettings
from slhf_training.evaluation import evaluate_settings
from slhf_training.evaluation.judging import JudgingSettings
from slhf_training.fit import FitSettings
from slhf_training.imitation import ImitateSettings
from slhf_training.lessons.settings import LessonsSettings
from slhf_training.preference import SOURCES, SourceSettings
from slhf_training.recipe import RecipeSettings
from slhf_training.reward import RewardTraining

PAGE = Path(__file__).resolve().parents[1] / "docs" / "training-settings.md"
COMMANDS: dict[str, type[BaseModel]] = {
    "run": RecipeSettings,
    "fit": FitSettings,
    "evaluate": evaluate_settings(),
    "judge": JudgingSettings,
    "reward": RewardTraining,
    "distill": DistillSettings,
    "lessons": LessonsSettings,
    "imitate": ImitateSettings,
}
HEAD = """# Settings of training

Written from the code by `python scripts/settings_reference.py`; a test compares. An unknown key or a bad value stops a
command and is named. Relative paths start at the configuration's own folder. Null means "not given".
[training-commands.md](training-commands.md) says what the commands do, and [training/examples](../training/examples)
has configurations.
"""
_LIMITS = {
    "exclusiveMinimum": "above {}",
    "minimum": "at least {}",
    "exclusiveMaximum": "below {}",
    "maximum": "at most {}",
    "pattern": "matching {}",
}


def page() -> str:
    parts: dict[str, type[BaseModel]] = {}
    lines = [HEAD]
    for command, settings in COMMANDS.items():
        lines += [f"## slhf-train {command}", "", *_table(settings, parts), ""]
    lines += ["## Preferences", "", "What may stand under `preference`, by its `kind`.", ""]
    for kind, path in SOURCES.items():
        module, _, name = path.partition(".")
        source: type[SourceSettings] = getattr(import_module(f"slhf_training.preference.{module}"), name)
        lines += [f"### kind: {kind}", "", *_table(source, parts, leave="kind"), ""]
    lines += ["## Parts", "", "What stands under several keys, or below one.", ""]
    shown: set[str] = set()
    while left := sorted(parts.keys() - shown):
        lines += [f"### {left[0]}", "", *_table(parts[left[0]], parts), ""]
        shown.add(left[0])
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(settings: type[BaseModel], parts: dict[str, type[BaseModel]], leave: str = "") -> Iterator[str]:
    """A row for each key; the sections that they hold are added to `parts`."""
    schema = settings.model_json_schema()
    known: dict[str, type[BaseModel]] = {**_sections(settings), SourceSettings.__name__: SourceSettings}
    said = _docstrings(settings)
    yield "| key | type | default | |"
    yield "|---|---|---|---|"
    for key, value in schema["properties"].items():
        if key == leave:
            continue
        for name in _references(value):
            if known[name] is not SourceSettings:
                parts.setdefault(_title(name), known[name])
        default = "**needed**" if key in schema.get("required", ()) else _default(value)
        yield f"| `{key}` | {_type(value)} | {default} | {said.get(key, '')} |"


def _sections(settings: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The sections below these settings, by the names of their classes."""
    found: dict[str, type[BaseModel]] = {}
    waiting: list[Any] = [field.annotation for field in settings.model_fields.values()]
    while waiting:
        one = waiting.pop()
        waiting += getattr(one, "__args__", ())
        if inspect.isclass(one) and issubclass(one, BaseModel) and one.__name__ not in found:
            found[one.__name__] = one
            waiting += [field.annotation for field in one.model_fields.values()]
    return found


def _docstrings(settings: type[BaseModel]) -> dict[str, str]:
    """What stands below each field of the class and its bases, in one line."""
    found: dict[str, str] = {}
    for kind in reversed(settings.__mro__):
        if not kind.__module__.startswith("slhf") or kind.__module__ == "slhf_training.config":
            continue
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        except (OSError, TypeError):  # pydantic made the class
            continue
        assert isinstance(tree, ast.ClassDef)
        for field, after in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
                text = inspect.cleandoc(ast.literal_eval(after.value))
                found[field.target.id] = " ".join(text.split()).replace("|", "\\|")
    return found


def _references(schema: Any) -> Iterator[str]:
    """The names of the sections that a key may hold."""
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            yield schema["$ref"].rpartition("/")[2]
        for name, value in schema.items():
            if name != "default":
                yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _type(schema: Mapping[str, Any]) -> str:
    match schema:
        case {"$ref": path}:
            return _link(path.rpartition("/")[2])
        case {"anyOf": kinds} | {"oneOf": kinds}:
            return " or ".join(dict.fromkeys(_type(kind) for kind in kinds))
        case {"enum": values}:
            return ", ".join(f"`{value}`" for value in values)
        case {"const": value}:
            return f"`{value}`"
        case {"type": "array", "prefixItems": kinds}:
            return f"[{', '.join(_type(kind) for kind in kinds)}]"
        case {"type": "array"}:
            return f"list of {_type(schema.get('items', {}))}"
        case {"type": "object"}:
            inner = next(iter(schema.get("patternProperties", {}).values()), schema.get("additionalProperties"))
            return f"mapping to {_type(inner)}" if isinstance(inner, Mapping) and inner else "mapping"
        case {"type": kind}:
            said = "path" if schema.get("format") == "path" else kind
            limits = [text.format(f"`{schema[name]}`") for name, text in _LIMITS.items() if name in schema]
            return " ".join([said, ", ".join(limits)]).strip().replace("|", "\\|")
    return "any"


def _link(name: str) -> str:
    if name == SourceSettings.__name__:
        return "[preference](#preferences)"
    return f"[{_title(name)}](#{_title(name).lower()})"


def _title(name: str) -> str:
    return name.removesuffix("Settings")


def _default(schema: Mapping[str, Any]) -> str:
    value = schema.get("default")
    if isinstance(value, Mapping) and any(_references({k: v for k, v in schema.items() if k != "default"})):
        return "its own"
    return "" if value is None else f"`{json.dumps(value, ensure_ascii=False)}`".replace("|", "\\|").replace("\\n", " ")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
