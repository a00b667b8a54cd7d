"""What becomes of the parameters of an endpoint that generates: its table, which it enforces and docs/api.md shows."""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import PydanticCustomError
from starlette.datastructures import Headers

from slhf.wire import given
from slhf_server.errors import BadRequest
from slhf_server.refinement.job import Drafter

Support = Literal["used", "both", "engine", "leader", "upstream", "ignored", "rejected"]
_WORDING: dict[Support, str] = {
    "used": "used by the server",
    "both": "Leader and Follower",
    "engine": "Leader and Follower; 400 where an upstream leads",
    "leader": "the Leader; 400 beside a draft",
    "upstream": "an upstream Leader; 400 without one",
    "ignored": "ignored",
    "rejected": "400",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """What becomes of one parameter of an endpoint."""

    support: Support
    """How the server treats it (worded in `_WORDING`); `ignored` is deliberate."""
    note: str = ""
    neutral: tuple[Any, ...] = ()
    """Values that ask for nothing, accepted where the parameter is not; null always is."""
    moot: tuple[str, Any] | None = None
    """Another parameter, and the value of it with which this one asks for nothing."""

    @property
    def wording(self) -> str:
        """What becomes of the parameter, in words."""
        return f"{_WORDING[self.support]}: {self.note}" if self.note else _WORDING[self.support]


PRIORITY_HEADER = "X-Vllm-Priority"
PRIORITY = Parameter("used", f"vLLM: lower runs first; the header {PRIORITY_HEADER} wins over it")

_NOT_FOR: dict[Drafter, tuple[Collection[Support], str]] = {
    "engine": (
        ["upstream"],
        "is for a Leader on another server, and this model's is not: leave it out (or ask a served model whose Leader "
        "is an upstream)",
    ),
    "client": (
        ["leader", "upstream"],
        "is for a Leader, and a request with a draft has none: leave it out. "
        'Beside tool_choice "none", tools are accepted and not used',
    ),
    "upstream": (["engine"], "holds token ids, and this model's Leader has other ones than its Follower: leave it out"),
}
"""Which parameters a request cannot have, by the writer of its draft."""


def check_drafter(table: Mapping[str, Parameter], asked: Mapping[str, Any], drafter: Drafter) -> None:
    """Raises BadRequest for a parameter in `asked` that whoever writes the draft cannot take."""
    support, why = _NOT_FOR[drafter]
    for name, value in asked.items():
        if table[name].support in support and not asks_for_nothing(table[name], value, asked):
            raise BadRequest(f"'{name}' {why}", param=name)


def priority_header(headers: Headers) -> int | None:
    """The priority that vLLM's header asks for. Raises BadRequest for what is none."""
    said = headers.get(PRIORITY_HEADER, "").strip()
    if not said:
        return None
    if not re.fullmatch(r"[+-]?[0-9]{1,10}", said, re.ASCII) or not -(2**31) <= int(said) < 2**31:
        raise BadRequest(f"{PRIORITY_HEADER} must be an integer of 32 bits", param=PRIORITY_HEADER)
    return int(said)


def filter_parameters(body: Any, table: Mapping[str, Parameter]) -> Any:
    """A request's body without what is ignored on purpose or asks for nothing.

    Raises PydanticCustomError for a parameter that is unknown or refused. A body that is no object is returned as it
    is, and pydantic refuses it.
    """
    if not isinstance(body, dict):
        return body
    return {name: value for name, value in given(body).items() if _is_kept(name, value, table.get(name), body)}


def _is_kept(name: str, value: Any, parameter: Parameter | None, body: Mapping[str, Any]) -> bool:
    if parameter is None:
        raise PydanticCustomError("unknown_parameter", "unknown parameter '{param}'", {"param": name})
    if parameter.support == "rejected" and not asks_for_nothing(parameter, value, body):
        raise PydanticCustomError("unsupported_parameter", "'{param}': {note}", {"param": name, "note": parameter.note})
    return parameter.support not in ("ignored", "rejected")


def asks_for_nothing(parameter: Parameter, value: Any, beside: Mapping[str, Any]) -> bool:
    """Whether a request with this value, beside those of other parameters, means the same as one without it."""
    if parameter.moot is not None and beside.get(parameter.moot[0]) == parameter.moot[1]:
        return True
    return value is None or any(_same(value, neutral) for neutral in parameter.neutral)


def _same(value: Any, neutral: Any) -> bool:
    """Whether they are equal, where null in an object means "not given" and true is not 1."""
    if isinstance(value, dict) and isinstance(neutral, dict):
        value = given(value)
        return value.keys() == neutral.keys() and all(_same(value[key], neutral[key]) for key in neutral)
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)


def document(table: Mapping[str, Parameter]) -> Callable[[dict[str, Any]], None]:
    """A request's `json_schema_extra`, which adds to the OpenAPI document what is passed on, ignored or refused."""

    def add(schema: dict[str, Any]) -> None:
        for name, parameter in table.items():
            if parameter.support in ("leader", "upstream", "ignored", "rejected"):
                closed = parameter.support == "rejected" and parameter.moot is None
                accepted = {"enum": [None, *parameter.neutral]} if closed else {}
                schema["properties"][name] = accepted | {"description": parameter.wording}

    return add


def rows(table: Mapping[str, Parameter]) -> Iterator[str]:
    """Yield a table's lines in Markdown."""
    yield "| parameter | what becomes of it | note | accepted nevertheless |"
    yield "|---|---|---|---|"
    for name, parameter in table.items():
        refused_somewhere = parameter.support in ("rejected", "leader", "upstream", "engine")
        neutral = (None, *parameter.neutral) if refused_somewhere else ()
        values = ", ".join(f"`{json.dumps(value)}`" for value in neutral)
        if parameter.moot is not None:
            values += f", any beside `{parameter.moot[0]}` `{json.dumps(parameter.moot[1])}`"
        yield f"| `{name}` | {_WORDING[parameter.support]} | {parameter.note} | {values} |"
