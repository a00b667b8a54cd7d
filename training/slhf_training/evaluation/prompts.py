"""The prompts of an evaluation, each once; other models' drafts to them; tasks whose answers a program can check."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import AliasChoices, Field

from slhf_training.checks import Check
from slhf_training.checks.registry import check_of
from slhf_training.checks.tests import UnitTestsSettings
from slhf_training.config import RelativePath, Section
from slhf_training.data import Example
from slhf_training.data.load import DataSettings, PromptRow, asked, load
from slhf_training.data.rows import checked, read_rows
from slhf_training.errors import DataError
from slhf_training.evaluation.answers import GIVEN, Chain, Slot
from slhf_training.types import Chat, chat_key, digest


@dataclass(frozen=True, slots=True)
class Prompt:
    chat: Chat
    name: str = ""
    """The data's own name of it, for people."""
    draft: str | None = None
    """A draft that comes with it."""
    id: str = field(init=False)
    """Depends on the chat and the draft alone: the same in every file and order."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", prompt_id(self.chat, self.draft))


def prompt_id(chat: Chat, draft: str | None = None) -> str:
    said = chat_key(chat)
    return digest(said if draft is None else [said, draft])[:16]


def each_once(prompts: Iterable[Prompt]) -> list[Prompt]:
    return list({prompt.id: prompt for prompt in prompts}.values())


def read_prompts(data: DataSettings, limit: int | None) -> dict[str, Prompt]:
    """The prompts by id, in the data's order. Raises DataError."""
    prompts = each_once(Prompt(example.chat, example.id) for example in load(data))
    return {prompt.id: prompt for prompt in prompts[:limit]}


def read_drafts(path: Path, model: str | None) -> dict[str, str]:
    """Outputs by prompt id; of two drafts to one prompt the first. Raises DataError naming file and line."""
    found: dict[str, str] = {}
    for number, row in read_rows(path):
        place = f"{path}:{number}"
        draft = checked(_DraftRow, asked(row, place), place)
        if model is None or draft.model == model:
            found.setdefault(prompt_id(draft.chat()), draft.output)
    if not found:
        raise DataError(f"{path}: no drafts" + ("" if model is None else f" of model {model!r}"))
    return found


class _DraftRow(PromptRow):
    output: str
    model: str | None = Field(default=None, validation_alias=AliasChoices("model", "generator"))


class TaskSettings(Section):
    data: DataSettings
    """Rows with a `check`, and with a `draft` where no leader is named."""
    rows: int = Field(default=300, gt=0)
    """The first so many of the data's shuffled order; all where there are fewer."""
    rows_file: RelativePath | None = None
    """The ids of these rows, one a line: read where the file is there, else written. With it the same rows are asked
    whatever becomes of the data."""
    leaders: tuple[str, ...] = ()
    """Models whose own answers are the drafts. Empty: the drafts are in the data."""

    @property
    def writers(self) -> tuple[str, ...]:
        """The writers with which its chains start."""
        return self.leaders or (GIVEN,)


@dataclass(frozen=True, slots=True)
class Case:
    """One row."""

    number: int
    """Its place in the task's list."""
    prompt: Prompt
    """What is asked."""
    drafted: Prompt
    """The same with the draft that comes with it, where one does."""
    model: str
    """The model that wrote that draft."""
    check: Check | None
    entry_point: str | None
    """What the answer's program defines; None: it is no program that counts."""

    def slot(self, chain: Chain, sample: int = 0) -> Slot:
        return Slot(chain, self.drafted.id if chain[0] == GIVEN else self.prompt.id, sample)


def read_cases(key: str, task: TaskSettings, limit: int | None, checked: bool = True) -> list[Case]:
    """The task's rows, each once. `limit`: of these only the first so many; the file of ids holds all.

    Raises DataError naming the configuration's key, and the file and line that are wrong.
    """
    found = {example.id: example for example in _usable(key, task, checked)}
    ids = _chosen(key, task, list(found))
    return [_case(number, found[name], task) for number, name in enumerate(ids[:limit])]


def _usable(key: str, task: TaskSettings, checked: bool) -> list[Example]:
    """The usable rows; of several that ask the same about the same draft of the same model, only the first."""
    examples = load(task.data)
    if checked:
        examples = [example for example in examples if example.check is not None]
    if not task.leaders:
        examples = [example for example in examples if example.draft]
    once = {(_prompt(one, task).id, "" if task.leaders else one.model): one for one in reversed(examples)}
    if not once:
        wanted = [*(["a check"] if checked else []), *([] if task.leaders else ["a draft"])]
        raise DataError(f"{key}: no row has {' and '.join(wanted)}")
    if len({example.id for example in once.values()}) < len(once):
        raise DataError(f"{key}: ids of rows are not unique, so that no list could name them")
    return list(reversed(once.values()))


def _chosen(key: str, task: TaskSettings, ids: list[str]) -> list[str]:
    if task.rows_file is None:
        return ids[: task.rows]
    if not task.rows_file.exists():
        _write(task.rows_file, ids[: task.rows])
    listed = [line for line in task.rows_file.read_text(encoding="utf-8").splitlines() if line]
    if gone := [name for name in listed if name not in set(ids)]:
        raise DataError(f"{key}: {task.rows_file}: the data have no usable row {gone[0]!r} ({len(gone)} are missing)")
    return listed


def _write(path: Path, ids: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in ids), encoding="utf-8")


def _case(number: int, example: Example, task: TaskSettings) -> Case:
    check = None if example.check is None else check_of(example.check)
    asked = Prompt(example.chat, example.id)
    entry_point = example.check.entry_point if isinstance(example.check, UnitTestsSettings) else None
    return Case(number, asked, _prompt(example, task), example.model, check, entry_point)


def _prompt(example: Example, task: TaskSettings) -> Prompt:
    return Prompt(example.chat, example.id, None if task.leaders else example.draft)
