"""Data sets that are known by name: files whose answers a program can check, and data sets of the Hugging Face hub.

| format | columns | check |
|---|---|---|
| `gsm8k` | `answer` (a number), `solution`; drafts: the task is found in `tasks` by the prompt | `number` |
| `code_tasks` | `entry_point`, `test_program`, `setup`; drafts: `task`, found in `tasks` | `tests` |
| `qa_short` | `answers`, and `wrong` ones, of which the first is the draft | `accepted` |
| `synth_exact` | `answer` | `exact`, or `number` where the prompt asks for no more than a number |
| `ifeval`, `ifeval_loose` | `instruction_id_list`, `kwargs`; drafts: `key`, found in `tasks` | `instructions` |

All have `prompt`; drafts have `draft` and `model`. Other word problems have GSM8K's columns too, HumanEval and MBPP
share one schema, and IFBench has IFEval's. Rows with instructions that nothing here can check get no check.

Each data set of the hub has an adapter: a pure function from a row, as the data set documents it, to an Example. It
gives None for a row that it cannot read (hh-rlhf has transcripts with two human turns in a row); such rows are counted.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args

from slhf_training.checks.instructions import given_arguments, unchecked
from slhf_training.config import Section
from slhf_training.data import Example, Pair, Scores
from slhf_training.data.rows import HELPSTEER2, Row, log_unused, messages_of, texts_beside, transcript, turns_of
from slhf_training.errors import DataError
from slhf_training.types import Chat

Format = Literal["gsm8k", "code_tasks", "qa_short", "synth_exact", "ifeval", "ifeval_loose"]
TASK_KEYS: Mapping[Format | None, str] = {
    "gsm8k": "prompt",
    "code_tasks": "task",
    "ifeval": "key",
    "ifeval_loose": "key",
}
"""The column by which rows of drafts name their task, where they do not hold all of it."""


class FormatError(Exception):
    """A row that does not have the format's columns."""


def formatted(row: Row, format: Format | None, tasks: Mapping[str, Row]) -> Row:
    """Return the row under the names of the one schema, with its `check`; without a format, return it as it is.

    Raises FormatError naming what is missing or of another type.
    """
    if format is None:
        return row
    known = {name: row[name] for name in ("prompt", "id", "source", "draft", "model") if name in row}
    try:
        return {**known, **_READERS[format](row, _task(row, format, tasks))}
    except KeyError as exc:
        raise FormatError(f"format {format}: there is no {exc}") from exc
    except (IndexError, TypeError, AttributeError) as exc:
        raise FormatError(f"format {format}: {exc}") from exc


def without_check(row: Row, format: Format | None, tasks: Mapping[str, Row]) -> Mapping[str, str]:
    """Return the kinds of instruction that leave a row without a check, each with the reason.

    The row has to be one that `formatted` can read.
    """
    if format not in ("ifeval", "ifeval_loose"):
        return {}
    task = _task(row, format, tasks)
    return unchecked(task["instruction_id_list"], _given(task))


def _task(row: Row, format: Format, tasks: Mapping[str, Row]) -> Row:
    key = TASK_KEYS.get(format)
    return tasks[str(row[key])] if key and tasks else row


def _gsm8k(row: Row, task: Row) -> Row:
    solution = task.get("solution")  # it may end with another number, so the answer is said again behind it
    reference = None if solution is None else f"{solution}\nThe answer is {row['answer']}."
    return {"check": {"kind": "number", "answer": row["answer"]}, "reference": reference}


def _code(row: Row, task: Row) -> Row:
    settings = {name: task[name] for name in ("entry_point", "test_program")}
    check = {"kind": "tests", **settings, "setup": task.get("setup", "")}
    return {"check": check, "reference": task.get("reference")}


def _qa_short(row: Row, task: Row) -> Row:
    wrong = {"draft": row["wrong"][0], "model": row.get("source", "")} if row.get("wrong") else {}
    return {
        "check": {"kind": "accepted", "answers": row["answers"]},
        "reference": next(iter(row["answers"]), None),
        **wrong,
    }


def _synth_exact(row: Row, task: Row) -> Row:
    kind = "number" if row["prompt"].endswith("Answer with a number.") else "exact"
    return {"check": {"kind": kind, "answer": row["answer"]}, "reference": row["answer"]}


def _instructions(row: Row, task: Row, *, loose: bool) -> Row:
    kinds = task["instruction_id_list"]
    if unchecked(kinds, _given(task)):
        return {}
    check = {"kind": "instructions", "instruction_id_list": kinds, "kwargs": task["kwargs"], "loose": loose}
    return {"check": check}


def _given(task: Row) -> list[Mapping[str, Any]]:
    return [given_arguments(each) for each in task["kwargs"]]


_READERS: Mapping[Format, Callable[[Row, Row], Row]] = {
    "gsm8k": _gsm8k,
    "code_tasks": _code,
    "qa_short": _qa_short,
    "synth_exact": _synth_exact,
    "ifeval": lambda row, task: _instructions(row, task, loose=False),
    "ifeval_loose": lambda row, task: _instructions(row, task, loose=True),
}
assert set(_READERS) == set(get_args(Format))


Adapter = Literal["helpsteer2", "hh-rlhf", "ultrafeedback", "tulu-3"]


class HubData(Section):
    name: str
    """Hub id, such as nvidia/HelpSteer2."""
    adapter: Adapter
    split: str = "train"
    folder: str | None = None
    """`data_dir` of `datasets.load_dataset`, such as helpful-base of Anthropic/hh-rlhf."""
    revision: str | None = None


def helpsteer2(row: Row) -> Example | None:
    """nvidia/HelpSteer2: a prompt, whose turns are marked where it has several, one response, and attributes 0 to 4."""
    values = {name: float(row[name]) for name in HELPSTEER2}
    chat = turns_of(row["prompt"])
    return Example(chat, None, Scores(row["response"], values)) if chat[-1]["role"] == "user" else None


def hh_rlhf(row: Row) -> Example | None:
    """Anthropic/hh-rlhf: two transcripts that differ in the assistant's last turn."""
    chosen, rejected = transcript(row["chosen"]), transcript(row["rejected"])
    if len(chosen) < 2 or chosen[:-1] != rejected[:-1] or not _alternates(chosen):
        return None
    return Example(chosen[:-1], Pair(chosen[-1]["content"], rejected[-1]["content"]))


def ultrafeedback(row: Row) -> Example | None:
    """HuggingFaceH4/ultrafeedback_binarized: `chosen` and `rejected` are chats that differ in the last message."""
    return _of_chats(row)


def tulu_3(row: Row) -> Example | None:
    """allenai/llama-3.1-tulu-3-8b-preference-mixture: as UltraFeedback, with an id and a source in each row."""
    return _of_chats(row)


ADAPTERS: Mapping[str, Callable[[Row], Example | None]] = {
    "helpsteer2": helpsteer2,
    "hh-rlhf": hh_rlhf,
    "ultrafeedback": ultrafeedback,
    "tulu-3": tulu_3,
}
assert set(ADAPTERS) == set(get_args(Adapter))

_READ = {"chosen", "rejected", "id", "prompt_id", "source"}
_COLUMNS: Mapping[str, set[str]] = {
    "helpsteer2": {"prompt", "response", "id", "source", *HELPSTEER2},
    "hh-rlhf": _READ,
    "ultrafeedback": _READ | {"prompt", "messages"},  # both repeat what `chosen` holds
    "tulu-3": _READ | {"prompt"},
}
"""The columns that each adapter reads; others that hold text are logged."""


def hub_examples(source: HubData, wanted: Callable[[Row], bool]) -> Iterator[Example | None]:
    """Yield an example for each wanted row, or None where the adapter cannot read it. Raises DataError."""
    import datasets  # late: it takes a second, and JSONL files do not need it

    try:
        rows = datasets.load_dataset(source.name, split=source.split, data_dir=source.folder, revision=source.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as exc:
        raise DataError(f"{source.name}: {exc}") from exc
    unused: Counter[str] = Counter()
    for number, row in enumerate(rows):
        if wanted(row):
            yield _adapted(source, row, f"{source.name}:{source.split}:{number}")
            unused.update(texts_beside(row, _COLUMNS[source.adapter]))
    log_unused(source.name, unused)


def _adapted(source: HubData, row: Row, place: str) -> Example | None:
    try:
        example = ADAPTERS[source.adapter](row)
    except (KeyError, TypeError, ValueError) as exc:
        raise DataError(f"{place}: not a row of {source.adapter}: {type(exc).__name__} {exc}") from exc
    if example is None:
        return None
    name = str(row.get("id") or row.get("prompt_id") or place)
    return Example(example.chat, example.pair, example.scores, id=name, source=str(row.get("source") or source.name))


def _of_chats(row: Row) -> Example | None:
    chosen, rejected = messages_of(row["chosen"], "chosen"), messages_of(row["rejected"], "rejected")
    if len(chosen) < 2 or chosen[:-1] != rejected[:-1] or chosen[-2]["role"] != "user":
        return None
    return Example(chosen[:-1], Pair(chosen[-1]["content"], rejected[-1]["content"]))


def _alternates(chat: Chat) -> bool:
    return all(message["role"] == ("user", "assistant")[i % 2] for i, message in enumerate(chat)) and len(chat) % 2 == 0
