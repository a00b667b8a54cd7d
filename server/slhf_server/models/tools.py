"""Tools that a model of ours may call, and the arguments of their calls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slhf.json_text import read_json


@dataclass(frozen=True, slots=True)
class Tools:
    """What one completion may call."""

    offered: tuple[Mapping[str, Any], ...]
    """Each as OpenAI writes it: `{type: "function", function: {name, description, parameters}}`."""
    required: bool = False
    """Whether the completion must be a call."""
    named: str | None = None
    """The one function that must be called; None: any of them."""
    parallel: bool = True
    """Whether one turn may call several."""

    @property
    def forced(self) -> bool:
        """Whether the completion is nothing but calls, written under a grammar."""
        return self.required or self.named is not None


def arguments_of(text: str) -> Any:
    """A call's arguments as chat templates want them: the object that the JSON spells, or the text where it spells
    none."""
    try:
        said = read_json(text)
    except ValueError:
        return text
    return said if isinstance(said, dict) else text
