"""All instructions of a prompt are followed: the kinds of IFEval and IFBench that checks/instructions.py knows."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from slhf_training.checks.instructions import InstructedRow, follows, follows_loosely, refusal, unchecked
from slhf_training.config import Section


class InstructionsCheckSettings(Section):
    """With the names of IFEval's columns."""

    kind: Literal["instructions"]
    instruction_id_list: tuple[str, ...] = Field(min_length=1)
    kwargs: tuple[Mapping[str, Any], ...]
    """The arguments of each, by name."""
    loose: bool = False
    """An answer without its first or last line, or without asterisks, counts as well."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if len(self.instruction_id_list) != len(self.kwargs):
            raise ValueError(f"{len(self.instruction_id_list)} instructions and kwargs for {len(self.kwargs)}")
        if reasons := unchecked(self.instruction_id_list, self.row().arguments):
            raise ValueError(refusal(reasons))
        return self

    def row(self) -> InstructedRow:
        given = {"instruction_id_list": self.instruction_id_list, "kwargs": self.kwargs}
        return InstructedRow.model_validate({"prompt": "", **given})


class Instructions:
    def __init__(self, settings: InstructionsCheckSettings) -> None:
        self._row = settings.row()
        self._rule = follows_loosely if settings.loose else follows

    def passed(self, answer: str) -> bool:
        return all(self._row.followed(answer, self._rule))
