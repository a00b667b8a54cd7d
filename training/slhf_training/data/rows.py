"""Reads rows of JSONL files, and the columns that other people's data sets have as those of one schema.

| written by | columns |
|---|---|
| Alpaca, Dolly | `instruction`, a blank line, `input` or `context`; `output` or `response`; `history` |
| TRL | `prompt` with `chosen` and `rejected`, or `completion` (and `label`); texts, or lists of messages |
| UltraFeedback, Tulu, TRL | `chosen` and `rejected` as whole conversations that share all but their last turn |
| HH | the same as transcripts, "\n\nHuman: ... \n\nAssistant: ..." |
| OpenAI, ShareGPT | `messages` or `conversations` that end with the assistant's turn |
| HelpSteer2 | `prompt` with its marks of turns, `response`, five numbers |
| questions | `question` or `query`, `context`, `answer` |

`system` or `system_prompt` is the first turn. A null counts as a column that is not there.
"""

import gzip
import logging
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from slhf.json_text import read_json_lines
from slhf_training.errors import DataError
from slhf_training.types import Message

_LOG = logging.getLogger(__name__)
Row = Mapping[str, Any]
Turns = list[Message]

HELPSTEER2 = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
_CONVERSATIONS = ("messages", "chat", "conversations", "conversation")
_QUESTIONS = ("instruction", "question", "query", "input")
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant"}
_KNOWN_ROLES = ("system", "developer", "user", "assistant", "tool")
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_HELPSTEER_TURN = re.compile(r"\n?<extra_id_[01]>(System|User|Assistant)\n")


class Columns:
    """A row that remembers which of its columns were used."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self.used: set[str] = set()

    def take(self, *names: str) -> Any:
        """Return the value of the first of these columns that has one; None where none has."""
        name = self.name_of(*names)
        self.used |= {name} if name else set()
        return self._row[name] if name else None

    def text(self, *names: str) -> str:
        """Return the text of the first of these columns that has a value; empty where none has.

        Raises ValueError for a value that is no text.
        """
        value = self.take(*names)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{self.name_of(*names)}: not a text")
        return value or ""

    def name_of(self, *names: str) -> str | None:
        return next((name for name in names if self._row.get(name) is not None), None)

    def are(self, kind: Any, *names: str) -> bool:
        """Return whether each of these columns has a value of that kind."""
        return all(isinstance(self._row.get(name), kind) for name in names)

    def unused_texts(self) -> list[str]:
        return texts_beside(self._row, self.used)


def read(columns: Columns) -> dict[str, Any]:
    """Return `prompt` (turns, or an empty text), and of `chosen`, `rejected`, `response`, `reference` and `scores`
    those that the row has. Values of a wrong type are passed on.

    Raises ValueError naming a column that cannot be read.
    """
    prompt, last = _asked(columns)
    prompt, found = _pair(columns, prompt)
    answer = _answer(columns, prompt, last)
    found |= {key: value for key, value in answer.items() if value is not None}
    system = columns.text("system", "system_prompt")
    if system.strip() and isinstance(prompt, list):
        prompt = _under(system, prompt)
    return found | ({} if prompt is None else {"prompt": prompt})


def texts_beside(row: Row, used: Set[str]) -> list[str]:
    """Return the names of the columns that hold text and were not used."""
    return [name for name, value in row.items() if name not in used and _has_text(value)]


def log_unused(place: str, unused: Mapping[str, int]) -> None:
    """Log the unused columns with their numbers of rows, so that nothing is left out without a word."""
    if unused:
        said = ", ".join(f"{name} ({rows} rows)" for name, rows in unused.items())
        _LOG.warning("%s: columns of text that are not used: %s", place, said)


def turns_of(text: str) -> Turns:
    """Return one user turn, or several turns where the text has HH's or HelpSteer2's marks of turns."""
    if _is_transcript(text):
        turns = transcript(text)
    else:
        first, *rest = _HELPSTEER_TURN.split(text)
        turns = [Message(role="user", content=first)] if first.strip() or not rest else []
        turns += [Message(role=role.lower(), content=said) for role, said in zip(rest[::2], rest[1::2], strict=True)]
    is_open = len(turns) > 1 and turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip()
    return turns[:-1] if is_open else turns


def transcript(text: str) -> Turns:
    """Return the turns of a transcript in HH's form; none where text stands before the first one."""
    before, *rest = _HH_TURN.split(f"\n\n{text.lstrip()}")
    if before.strip():
        return []
    roles = {"Human": "user", "Assistant": "assistant"}
    return [Message(role=roles[role], content=said.strip()) for role, said in zip(rest[::2], rest[1::2], strict=True)]


def messages_of(value: Sequence[Any], column: str) -> Turns:
    """Read OpenAI's messages, or ShareGPT's. Raises ValueError naming the column and the place in it."""
    return [_message(message, f"{column}.{place}") for place, message in enumerate(value)]


def _asked(columns: Columns) -> tuple[Any, str | None]:
    """Return the question (None where no column asks), and the answer that ends the conversation, if one does."""
    if (prompt := columns.take("prompt")) is not None:
        if isinstance(prompt, list):
            return messages_of(prompt, "prompt"), None
        return (turns_of(prompt) if isinstance(prompt, str) and prompt else prompt), None
    if isinstance(conversation := columns.take(*_CONVERSATIONS), list):
        turns = messages_of(conversation, columns.name_of(*_CONVERSATIONS) or "")
        if turns and turns[-1]["role"] == "assistant":
            return turns[:-1], turns[-1]["content"]
        return turns, None
    if conversation is not None:
        return conversation, None
    question = columns.take(*_QUESTIONS)
    if not isinstance(question, str):
        return (messages_of(question, "instruction") if isinstance(question, list) else question), None
    about = "" if "input" in columns.used else columns.text("input")
    parts = [part for part in (question, about, columns.text("context")) if part.strip()]
    if not parts:
        return "", None
    return [*_history(columns.take("history")), Message(role="user", content="\n\n".join(parts))], None


def _history(pairs: Any) -> Turns:
    """Read Alpaca's earlier turns, [[question, answer], ...]."""
    turns: Turns = []
    for pair in pairs or []:
        match pair:
            case [str() as question, str() as answer]:
                turns += [Message(role="user", content=question), Message(role="assistant", content=answer)]
            case _:
                raise ValueError("history: not a list of pairs of texts")
    return turns


def _pair(columns: Columns, prompt: Any) -> tuple[Any, dict[str, Any]]:
    chosen, rejected = columns.take("chosen"), columns.take("rejected")
    if chosen is None or rejected is None:
        return prompt, {key: value for key, value in (("chosen", chosen), ("rejected", rejected)) if value is not None}
    before, better = _continued(chosen, prompt, "chosen")
    also_before, worse = _continued(rejected, prompt, "rejected")
    if before != also_before:
        raise ValueError("chosen and rejected: they do not share all but their last turn")
    return before, {"chosen": better, "rejected": worse}


def _continued(value: Any, prompt: Any, column: str) -> tuple[Any, Any]:
    """Return the chat and the answer to it. A conversation brings its own chat, which must go on from the prompt."""
    if isinstance(value, str) and _is_transcript(value):
        turns = transcript(value)
    elif isinstance(value, list | dict):
        turns = messages_of([value] if isinstance(value, dict) else value, column)
    else:
        return prompt, value
    if not turns or turns[-1]["role"] != "assistant":
        raise ValueError(f"{column}: its last turn is not the assistant's")
    before, answer = turns[:-1], turns[-1]["content"]
    if before and isinstance(prompt, list) and not _asks_the_same(prompt, before):
        raise ValueError(f"{column}: it does not go on from the prompt")
    return before or prompt, answer


def _asks_the_same(prompt: Any, chat: Turns) -> bool:
    """The prompt of a row may be its whole chat, the chat without its system turn, or one of its user's turns."""
    asked, whole = ([(turn["role"], turn["content"].strip()) for turn in turns] for turns in (prompt, chat))
    return asked in (whole, [turn for turn in whole if turn[0] != "system"]) or (len(asked) == 1 and asked[0] in whole)


def _answer(columns: Columns, prompt: Any, last: str | None) -> dict[str, Any]:
    """Return the row's answer: a reference if it is known to be good, a response if scored or written by a model."""
    found: dict[str, Any] = {"response": columns.take("response"), "scores": columns.take("scores")}
    if found["response"] is not None and found["scores"] is None and columns.are(int | float, *HELPSTEER2):
        found["scores"] = {name: columns.take(name) for name in HELPSTEER2}
    good = columns.take("reference")
    if columns.name_of("completion"):
        _, completion = _continued(columns.take("completion"), prompt, "completion")
        if columns.name_of("label") and not columns.are(str, "label"):  # KTO's boolean; tables write it as 0 or 1
            if (label := columns.take("label")) not in (0, 1):
                raise ValueError("label: neither true nor false")
            return found | {"response": completion, "scores": {"label": float(label)}}
        good = completion if good is None else good
    if columns.name_of("model", "generator") and found["response"] is None and columns.are(str, "output"):
        found["response"] = columns.take("output")
    for name in ("output", "answer"):
        if good is None and name not in columns.used and columns.are(str, name):
            good = columns.take(name)
    return found | {"reference": last if good is None else good}


def _under(system: str, turns: Turns) -> Turns:
    if turns and turns[0]["role"] == "system":
        if turns[0]["content"].strip() != system.strip():
            raise ValueError("system: the conversation begins with another system turn")
        return turns
    return [Message(role="system", content=system), *turns]


def _message(message: Any, place: str) -> Message:
    if not isinstance(message, dict):
        raise ValueError(f"{place}: not a message")
    if message.get("tool_calls") or message.get("function_call"):
        raise ValueError(f"{place}: calls of tools cannot be read")
    role = message.get("role", message.get("from"))
    role = _ROLES.get(role, role) if isinstance(role, str) else role
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        content = "\n".join(_text_of(part, place) for part in content)
    if role not in _KNOWN_ROLES:
        raise ValueError(f"{place}: a turn of {role!r} cannot be read")
    if not isinstance(content, str):
        raise ValueError(f"{place}: its content is not a text")
    return Message(role=role, content=content)


def _text_of(part: Any, place: str) -> str:
    match part:
        case {"type": "text", "text": str() as text}:
            return text
    raise ValueError(f"{place}: a part that is no text cannot be read")


def _is_transcript(text: str) -> bool:
    return text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def _has_text(value: Any) -> bool:
    """Return whether the value is a text that is not blank, or holds texts, lists or mappings."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, str) and bool(value.strip()) or any(isinstance(one, str | dict | list) for one in inner)


Model = TypeVar("Model", bound=BaseModel)


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the objects of a JSONL file, gzipped or not, with the numbers of their lines; blank lines are left out.

    Raises DataError naming file and line.
    """
    try:
        with _open(path) as lines:
            for number, row in read_json_lines(lines, str(path)):
                if not isinstance(row, dict):
                    raise DataError(f"{path}:{number}: not a JSON object")
                yield number, row
    except ValueError as exc:
        raise DataError(str(exc)) from exc
    except (OSError, EOFError, zlib.error) as exc:
        raise DataError(f"{path}: {exc}") from exc


def checked(kind: type[Model], row: Row, place: str) -> Model:
    """Return the row as that kind of model. Raises DataError naming the place and each bad key."""
    try:
        return kind.model_validate(row)
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'row'}: {e['msg']}" for e in exc.errors())
        raise DataError(f"{place}: {problems}") from exc


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
