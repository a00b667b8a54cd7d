"""The program that reads clients' schemas; workers.py starts it as `python -m ...structured_output.validator SECONDS`.

A small schema can ask for hours of work or overflow a stack, so none is read in the server's own process. One line
announces each task and its sizes, `<bytes of schema> <bytes of text> <grammar>`. Schema and text follow; a line of JSON
answers. Without a text the schema is checked, and the answer is what is wrong, or the schema with its patterns
spelled out. The kernel ends the process where a task takes more than SECONDS of processor time, or too much memory.
"""

import json
import math
import os
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from jsonschema_rs import Draft202012Validator, ReferencingError, RegexOptions, ValidationError

from slhf_server.models.structured_output.patterns import spelled_out

_MEMORY_BYTES = 2 << 30
_NICE = 5  # the server and its engine come first
_MOST_SPELLED = 1 << 20  # bytes; a dot alone takes fifty
_SHOWN = 60  # characters of a client's own words in a message
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_ONES = (
    *("items", "contains", "not", "if", "then", "else", "contentSchema", "propertyNames"),
    *("additionalItems", "additionalProperties", "unevaluatedItems", "unevaluatedProperties"),
)


class Refused(Exception):
    """What is wrong with a schema, in a sentence that a client may read."""


def main() -> None:
    """Answer tasks until standard input ends."""
    seconds = float(sys.argv[1])
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    tasks, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := tasks.readline().split():
        schema, text = (tasks.read(int(size)) for size in head[:2])
        signal.setitimer(signal.ITIMER_PROF, seconds)
        answer = admits(schema, text) if text else verdict(schema, grammar=head[2] == b"1")
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
        answers.flush()


def verdict(text: bytes, grammar: bool) -> dict[str, str]:
    """`{"refused": why}`, or `{"schema": ...}` with the schema as JSON, as validator and grammar read it.

    `grammar` says that the engine has to write such a text, so llguidance must know all of the schema.
    """
    try:
        schema = json.loads(text)
        for found in _schemas(schema):
            _check_references(found)
            _spell_out(found)
        spelled = json.dumps(schema, ensure_ascii=False)
        if len(spelled.encode()) > _MOST_SPELLED:
            raise Refused("the schema is too large: its patterns are too long")
        _compiled(schema)
        if grammar:
            _check_grammar(spelled)
    except Refused as exc:
        return {"refused": str(exc)}
    return {"schema": spelled}


def admits(schema: bytes, text: bytes) -> bool:
    """Whether the text is whole JSON and valid under the schema, as `verdict` has spelled it out."""
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        return _compiled(json.loads(schema)).is_valid(value)
    except (ValueError, OverflowError, RecursionError, Refused):
        return False


def _compiled(schema: Any) -> Draft202012Validator:
    try:
        return Draft202012Validator(schema, pattern_options=RegexOptions(), offline=True)
    except ValidationError as exc:
        where = _cut("/".join(["#", *map(str, exc.instance_path)]))
        if exc.instance_path:
            raise Refused(f"the schema is not valid at {where} ({exc.kind.name})") from exc
        raise Refused(f"the schema is not valid: {_cut(exc.message)}") from exc
    except ReferencingError as exc:
        raise Refused(f"the schema has a reference to nowhere: {_cut(exc.message)}") from exc
    except (ValueError, OverflowError, RecursionError) as exc:
        raise Refused(f"the schema cannot be compiled: {_cut(str(exc))}") from exc


def _check_grammar(schema: str) -> None:
    try:
        from llguidance import LLMatcher  # comes with vLLM
    except ImportError:
        return
    try:
        why = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema), None)
    except ValueError as exc:
        why = str(exc)
    if why:
        raise Refused(f"the engine cannot be held to the schema: {_cut(why.splitlines()[-1])}")


def _schemas(root: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema within the root; values of `enum`, `const` and `default` are data, and no schemas."""
    left = [root]
    while left:
        schema = left.pop()
        if not isinstance(schema, dict):
            continue
        for name in _MAPS:
            if isinstance(inner := schema.get(name), dict):
                left += inner.values()
        for name in _LISTS:
            if isinstance(inner := schema.get(name), list):
                left += inner
        left += [schema[name] for name in _ONES if name in schema]
        yield schema


def _check_references(schema: dict[str, Any]) -> None:
    for name in ("$ref", "$dynamicRef"):
        reference = schema.get(name, "#")
        if isinstance(reference, str) and not reference.startswith("#"):
            raise Refused(f"{name} {_cut(reference)!r}: references must point into the schema itself (#/...)")


def _spell_out(schema: dict[str, Any]) -> None:
    if isinstance(pattern := schema.get("pattern"), str):
        schema["pattern"] = _spelled("pattern", pattern)
    if isinstance(patterns := schema.get("patternProperties"), dict):
        schema["patternProperties"] = {_spelled("patternProperties", key): value for key, value in patterns.items()}


def _spelled(keyword: str, pattern: str) -> str:
    try:
        return spelled_out(pattern)
    except ValueError as exc:
        raise Refused(f"{keyword} {_cut(pattern)!r} {exc}") from exc


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


if __name__ == "__main__":
    main()
