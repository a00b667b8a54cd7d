"""Thoughts that a reasoning model writes before its answer, `<think>...</think>`: they are no part of the text.

The Follower must not see a draft's thoughts, and no client gets them as content. Only thoughts at the beginning count:
further on, such a tag is something the answer speaks about.
"""

OPEN, CLOSE = "<think>", "</think>"


class Thoughts:
    """Takes the thoughts out of a text that arrives in pieces, holding back no more than it must."""

    def __init__(self) -> None:
        self.over = False
        """The text itself has begun: every further piece belongs to it."""
        self.found = False
        """There were thoughts."""
        self._held = ""
        self._inside = False

    def visible(self, piece: str) -> str:
        """What of the text up to this piece can be shown and was not yet."""
        if self.over:
            return piece
        self._held += piece
        if self._inside and not self._leave():
            return ""
        start = self._held.lstrip()
        if start.startswith(OPEN):
            self._inside, self.found, self._held = True, True, start.removeprefix(OPEN)
            return self.visible("")
        if OPEN.startswith(start):
            return ""  # blank, or the beginning of a tag: the next piece tells
        self.over = True
        return self.rest()

    def rest(self) -> str:
        """What is held back and will not turn out to be thoughts, at the end of the text."""
        held, self._held = self._held, ""
        return "" if self._inside else held.lstrip() if self.found else held

    def _leave(self) -> bool:
        """Go past the end of the thoughts, if it has come."""
        _, closed, after = self._held.partition(CLOSE)
        self._held = after if closed else self._held[-len(CLOSE) + 1 :]
        self._inside = not closed
        return bool(closed)


def without_thoughts(text: str) -> str:
    """A whole text without the thoughts it begins with.

    A text whose first tag is a closing one is one whose opening tag stood in the model's prompt (DeepSeek-R1 and its
    kin).
    """
    before, closed, after = text.partition(CLOSE)
    if closed and OPEN not in before:
        return after.lstrip()
    thoughts = Thoughts()
    return thoughts.visible(text) + thoughts.rest()
