"""Data sets whose answers a program can check, as rows with a `check`.

| format | columns | check |
|---|---|---|
| `gsm8k` | `answer` (a number), `solution`; of drafts, it is found in `tasks` by the prompt | `number` |
| `code_tasks` | `entry_point`, `test_program`, `setup`; drafts: `task`, found in `tasks` | `tests` |
| `qa_short` | `answers`, and `wrong` ones, of which the first is the draft | `accepted` |
| `synth_exact` | `answer` | `exact`, or `number` where the prompt asks for no more than a number |
| `ifeval`, `ifeval_loose` | `instruction_id_list`, `kwargs`; drafts: `key`, found in `tasks` | `instructions` |

All have `prompt`; drafts have `draft` and `model`. GSM8K's columns are those of other word problems, too, HumanEval's
and MBPP's are one schema, and IFBench has IFEval's. Rows with instructions that nothing here can check have no check.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from slhf_training.checks.instructions import given_arguments, unchecked
from slhf_training.data.schemas import Row

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
    """The row with its `check` and what else is known, under the names of the one schema; as it is without a format.

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
    """Of a row that `formatted` could read the kinds of instruction that leave it without a check, with the reasons."""
    if format not in ("ifeval", "ifeval_loose"):
        return {}
    task = _task(row, format, tasks)
    return unchecked(task["instruction_id_list"], _given(task))


def _task(row: Row, format: Format, tasks: Mapping[str, Row]) -> Row:
    key = TASK_KEYS.get(format)
    return tasks[str(row[key])] if key and tasks else row


def _gsm8k(row: Row, task: Row) -> Row:
    solution = task.get("solution")  # which may end with another number than the answer
    reference = None if solution is None else f"{solution}\nThe answer is {row['answer']}."
    return {"check": {"kind": "number", "answer": row["answer"]}, "reference": reference}


def _code(row: Row, task: Row) -> Row:
    settings = {name: task[name] for name in ("entry_point", "test_program")}
    check = {"kind": "tests", **settings, "setup": task.get("setup", ""), "example": task.get("visible_test") or ""}
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
