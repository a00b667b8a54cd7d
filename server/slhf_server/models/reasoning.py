"""Takes thoughts, `<think>...</think>`, which a reasoning model writes before its answer, out of the text.

The Follower must not see a draft's thoughts, and no client gets a model's as content. Only blocks at the beginning
count, because further on such a tag is something that the text speaks about. A closing tag without an opening one is
text, too: where the prompt has opened the thoughts, the model's own code puts the tag back (engine/role.py).
"""

import re
import sys
import unicodedata

from slhf.turns import CLOSE_THOUGHT, OPEN_THOUGHT

_BLOCKS = re.compile(rf"(?:\s*+{OPEN_THOUGHT}.*?{CLOSE_THOUGHT})*+", re.DOTALL)  # possessive: linear, whatever the text
_LONE = re.compile(rf"{OPEN_THOUGHT}(.*?){CLOSE_THOUGHT}", re.DOTALL)
_SPACE = re.compile(r"\s*+")
_INVISIBLE = {"Cc", "Cf", "Zl", "Zp", "Zs"}  # Unicode's categories of control, format and space


class ReasoningParser:
    """Takes the thoughts out of a model's text that arrives in pieces, holding back no more than it must."""

    def __init__(self) -> None:
        self.found = False
        """Whether there were thoughts."""
        self._over = False  # the text itself has begun: every further piece belongs to it
        self._inside = False
        self._blank: list[str] = []  # white space before the text
        self._held = ""  # what may become a tag

    @property
    def closed(self) -> bool:
        """Whether there were thoughts, and they have ended."""
        return self.found and not self._inside

    def visible(self, piece: str) -> str:
        """What of the text up to this piece can be shown and has not been shown yet."""
        if self._over:
            return piece
        held, at = self._held + piece, 0
        if self._inside:
            closed = held.find(CLOSE_THOUGHT)
            if closed < 0:
                self._held = held[-len(CLOSE_THOUGHT) + 1 :]
                return ""
            at, self._inside = closed + len(CLOSE_THOUGHT), False
        end = _past_blocks(held, at)
        start = _past(_SPACE, held, end)
        if held.startswith(OPEN_THOUGHT, start):
            self.found = self._inside = True
            self._held = held[start + len(OPEN_THOUGHT) :][-len(CLOSE_THOUGHT) + 1 :]
            return ""
        self.found = self.found or end > 0
        self._blank.append(held[end:start])
        self._held = held[start:]
        if OPEN_THOUGHT.startswith(self._held):
            return ""  # blank, or the beginning of a tag: the next piece tells
        self._over = True
        return self.rest()

    def rest(self) -> str:
        """What is still held back at the end of the text and is no thought."""
        blank = "" if self.found else "".join(self._blank)
        held = "" if self._inside else blank + self._held
        self._blank, self._held = [], ""
        return held


def strip_reasoning(text: str) -> str:
    """A text from outside, without the closed blocks of thoughts that it begins with.

    An open block stays, because it may be a thought that was cut off or the text itself.
    """
    end = _past_blocks(text, 0)
    return text[_past(_SPACE, text, end) :] if end else text


def lone_thoughts(text: str) -> str | None:
    """The thoughts of a text that is one block of them and nothing else."""
    match = _LONE.fullmatch(text.strip())
    return None if match is None else match[1]


def refinable(draft: str) -> str:
    """A client's draft as the Follower sees it: without thoughts, or as it was sent where nothing else is in it."""
    text = strip_reasoning(draft)
    return draft if is_blank(text) else text


def is_blank(text: str) -> bool:
    """Whether there is nothing to see: white space and characters without width alone."""
    first = text.lstrip()[:1]
    if first and first.isprintable():
        return False  # this is the usual case, and needs no table of categories
    return all(unicodedata.category(one) in _INVISIBLE for one in set(text))


def _past_blocks(text: str, start: int) -> int:
    """Where the closed blocks end that begin at `start`; it takes 12 ns a character, whatever the text."""
    last = text.rfind(CLOSE_THOUGHT, start)
    return start if last < 0 else _past(_BLOCKS, text, start, last + len(CLOSE_THOUGHT))


def _past(pattern: "re.Pattern[str]", text: str, start: int, end: int = sys.maxsize) -> int:
    match = pattern.match(text, start, end)
    assert match is not None  # the pattern matches an empty text, too
    return match.end()
