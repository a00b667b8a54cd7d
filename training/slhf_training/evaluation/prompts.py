"""The prompts of an evaluation, each once, and other models' drafts to them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import AliasChoices, Field

from slhf_training.data.load import Asked, DataSettings, asked, checked, load, read_rows
from slhf_training.errors import DataError
from slhf_training.types import Chat, digest


@dataclass(frozen=True, slots=True)
class Prompt:
    chat: Chat
    name: str = ""
    """As the data has it, for people."""
    draft: str | None = None
    """One that comes with it."""
    id: str = field(init=False)
    """Depends on the chat and the draft alone: the same in every file and order."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", prompt_id(self.chat, self.draft))


def prompt_id(chat: Chat, draft: str | None = None) -> str:
    said = [[message["role"], message["content"]] for message in chat]
    return digest(said if draft is None else [said, draft])[:16]


def each_once(prompts: Iterable[Prompt]) -> list[Prompt]:
    return list({prompt.id: prompt for prompt in prompts}.values())


def read_prompts(data: DataSettings, limit: int | None) -> dict[str, Prompt]:
    """By id, in the data's order. Raises DataError."""
    prompts = each_once(Prompt(example.chat, example.id) for example in load(data))
    return {prompt.id: prompt for prompt in prompts[:limit]}


def read_drafts(path: Path, model: str | None) -> dict[str, str]:
    """Outputs by prompt id; of two drafts to one prompt the first. Raises DataError naming file and line."""
    found: dict[str, str] = {}
    for number, row in read_rows(path):
        place = f"{path}:{number}"
        draft = checked(_Draft, asked(row, place), place)
        if model is None or draft.model == model:
            found.setdefault(prompt_id(draft.chat()), draft.output)
    if not found:
        raise DataError(f"{path}: no drafts" + ("" if model is None else f" of model {model!r}"))
    return found


class _Draft(Asked):
    output: str
    model: str | None = Field(default=None, validation_alias=AliasChoices("model", "generator"))
