"""Whose text an answer is: the model that drafted it and those that refined it, one after the other.

`("base", "slhf")`, written "base > slhf", is slhf's refinement of base's draft; `("slhf",) * 3` is the second round of
slhf on its own draft. One model's name alone is its Leader's answer.
"""

from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator

Chain = tuple[str, ...]


def _a_chain(text: str) -> str:
    if not all(parsed(text)):
        raise ValueError("a model's name is missing beside '>'")
    return text


Player = Annotated[str, AfterValidator(_a_chain)]
"""In configurations: a model's name, or names joined by ">", each of which refines the text before it."""


def parsed(text: str) -> Chain:
    return tuple(name.strip() for name in text.split(">"))


def label(chain: Chain) -> str:
    return " > ".join(chain)


def file_name(chain: Chain) -> str:
    """A label for folders."""
    return "--".join(name.replace("/", "_") for name in chain)


def refined(leader: str, follower: str, rounds: int) -> Chain:
    return (leader, *[follower] * rounds)


def with_drafts(chains: Iterable[Chain]) -> list[Chain]:
    """The chains and all they build on, drafts first, each once."""
    found = {chain[:length]: None for chain in chains for length in range(1, len(chain) + 1)}
    return sorted(found, key=len)
