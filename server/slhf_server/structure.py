"""Structured output: OpenAI's `response_format`, what it admits, and nothing fetched from anywhere."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from slhf_server.errors import BadRequest

_NOTHING_FETCHED: Registry[Any] = Registry()  # jsonschema's own default would load a remote $ref from its address
_MOST_REFERENCES = 10_000  # followed for one text: about a second, in which the server does nothing else


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """What every text of a refinement must be: a JSON object, or JSON that a schema admits."""

    response_format: Mapping[str, Any]
    """As the client sent it: what an upstream gets."""
    schema: Mapping[str, Any] | None = None
    """None: any JSON object."""

    def admits(self, text: str) -> bool:
        """Whether the text is whole and valid."""
        try:
            value = json.loads(text, parse_constant=_no_constant)
            if self.schema is None:
                return isinstance(value, dict)
            _validator(self.schema).validate(value)
        except (ValueError, OverflowError, RecursionError, ValidationError, Unresolvable):
            return False
        return True


def structure_of(response_format: Mapping[str, Any]) -> Structure | None:
    """The structure that a `response_format` asks for; None for plain text. Raises BadRequest naming what is wrong."""
    match dict(response_format):
        case {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return Structure(response_format)
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            _check(schema)
            return Structure(response_format, schema)
        case {"type": "json_schema"}:
            raise _bad("json_schema.schema must be a JSON schema (an object)")
        case {"type": other}:
            raise _bad(f"type {other!r} is unknown: use text, json_object or json_schema")
    raise _bad("needs a type: text, json_object or json_schema")


def _check(schema: dict[str, Any]) -> None:
    try:
        Draft202012Validator.check_schema(schema)
        root = _NOTHING_FETCHED.resolver_with_root(DRAFT202012.create_resource(schema))
        for reference in _references(schema):
            if not reference.startswith("#"):
                raise _bad(f"$ref {reference!r}: references must point into the schema itself (#/...)")
            root.lookup(reference)
    except SchemaError as exc:
        raise _bad(f"the schema is not valid: {exc.message}") from exc
    except (Unresolvable, LookupError, TypeError, ValueError) as exc:  # `referencing` steps into whatever is there
        raise _bad(f"the schema has a reference to nowhere: {exc}") from exc
    except RecursionError as exc:
        raise _bad("the schema is nested too deeply") from exc


def _validator(schema: Mapping[str, Any]) -> Draft202012Validator:
    """One that gives up (ValueError) on a schema whose few references lead to each other too often."""
    left = _MOST_REFERENCES

    def follow(validator: Any, reference: Any, instance: Any, parent: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError("the schema takes too long to check")
        return Draft202012Validator.VALIDATORS["$ref"](validator, reference, instance, parent)

    bounded: type[Draft202012Validator] = extend(Draft202012Validator, {"$ref": follow})  # type: ignore[no-untyped-call]
    return bounded(schema, registry=_NOTHING_FETCHED)


def _references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [found for item in node for found in _references(item)]
    if not isinstance(node, dict):
        return []
    own = [node[key] for key in ("$ref", "$dynamicRef") if isinstance(node.get(key), str)]
    return own + [found for item in node.values() for found in _references(item)]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _bad(message: str) -> BadRequest:
    return BadRequest(f"response_format: {message}", param="response_format")
