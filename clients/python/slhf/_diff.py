"""Shows drafts and rounds to a reader: what a round changed stands out word by word."""

import re
from difflib import SequenceMatcher

from rich.console import Console
from rich.table import Table
from rich.text import Text

from slhf.wire import Round

ADDED = "bold green"
REMOVED = "red"
NARROWEST_COLUMN = 30

_CONTROL = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """The text without control characters: a model must not move the cursor or recolour the terminal."""
    return text.replace("\r\n", "\n").translate(_CONTROL)


def added(before: str, after: str) -> Text:
    """`after`, with the words that `before` lacks in colour."""
    return _marked(after, before, ADDED)


def removed(before: str, after: str) -> Text:
    """`before`, with the words that `after` lacks in colour."""
    return _marked(before, after, REMOVED)


def _marked(text: str, other: str, style: str) -> Text:
    """A word is what stands between white space; white space itself is never a change."""
    text = printable(text)
    words = re.findall(r"\s*\S+", text)
    matcher = SequenceMatcher(None, [word.strip() for word in words], printable(other).split(), autojunk=False)
    marked = Text()
    for kind, start, end, _, _ in matcher.get_opcodes():
        marked.append("".join(words[start:end]), None if kind == "equal" else style)
    return marked.append(text[len(marked) :])


def print_rounds(console: Console, rounds: list[Round]) -> None:
    """Print the rounds side by side where the terminal has the room, one below the other elsewhere."""
    texts = [_text(rounds, index) for index in range(len(rounds))]
    if console.is_terminal and console.width >= NARROWEST_COLUMN * len(rounds):
        table = Table(expand=True)
        for entry in rounds:
            table.add_column(Text(heading(entry.round, entry.role, entry.model)), ratio=1, overflow="fold")
        table.add_row(*texts)
        console.print(table)
        return
    for entry, text in zip(rounds, texts, strict=True):
        console.print(Text(f"== {heading(entry.round, entry.role, entry.model)}", "bold"), soft_wrap=True)
        console.print(text, end="\n\n", soft_wrap=True)


def _text(rounds: list[Round], index: int) -> Text:
    if index > 0:
        return added(rounds[index - 1].text, rounds[index].text)
    return removed(rounds[0].text, rounds[1].text) if len(rounds) > 1 else Text(printable(rounds[0].text))


def heading(number: int, role: str, model: str) -> str:
    name = "draft" if number == 0 else f"round {number}"
    return f"{name} ({role}{f', {model}' if model and model != role else ''})"
