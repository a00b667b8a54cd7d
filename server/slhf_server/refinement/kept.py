"""What a Follower's round must not lose: parts of its draft that a program can see. Each has an entry in `LOST`.

A part is lost where the refined text has fewer of it than the draft. What is added is never looked at. What the prompt
asks for is lost where the draft met it and the refined text misses it.
"""

import asyncio
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from slhf.json_text import read_json
from slhf_server.models.requirements.readers import requirements
from slhf_server.models.requirements.requirement import loses
from slhf_server.settings.server import Kept

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)")
_ALL = ""
_ALIASES = {"py": "python", "python3": "python", "js": "javascript", "ts": "typescript", "sh": "bash", "shell": "bash"}
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_URL = re.compile(r"https?://[^\s<>\"'()\[\]]+[^\s<>\"'()\[\].,;:!?]")
_QUOTE = re.compile(r"\"([^\"\n]{1,500})\"|“([^“”\n]{1,500})”|«([^«»\n]{1,500})»|„([^„“\n]{1,500})“")
_ITEM = re.compile(r"^[ \t]*(?:[-*+•]|\d{1,3}[.)])[ \t]+\S", re.MULTILINE)
_LETTERS = 2_000
_ENOUGH = 20
"""Letters that tell the script of a text; in fewer a name or a sign would decide."""
_HAN = ("CJK", "HIRAGANA", "KATAKANA")


def code(text: str) -> Counter[str]:
    """Fenced blocks: all of them, and by the word behind their fence, because one without a word may get one."""
    found: Counter[str] = Counter()
    opened = ""
    for line in text.splitlines():
        if (fence := _FENCE.match(line)) is None:
            continue
        if not opened:
            opened = fence[1]
            found[_ALL] += 1
            if word := fence[2].lower():
                found[_ALIASES.get(word, word)] += 1
        elif fence[1].startswith(opened) and not fence[2]:
            opened = ""
    return found


def script(text: str) -> str | None:
    """LATIN, CYRILLIC, HAN, ..., whichever has most letters; None where these are too few to tell."""
    scripts = Counter(_script(letter) for letter in islice(filter(str.isalpha, text), _LETTERS))
    return scripts.most_common(1)[0][0] if scripts.total() >= _ENOUGH else None


def numbers(text: str) -> Counter[str]:
    """Numbers, each once."""
    return Counter(set(_NUMBER.findall(text)))


def urls(text: str) -> Counter[str]:
    """Addresses of the web, each once."""
    return Counter(set(_URL.findall(text)))


def quotes(text: str) -> Counter[str]:
    """What stands in quotation marks, each once."""
    return Counter({next(filter(None, groups)) for groups in _QUOTE.findall(text)})


def lists(text: str) -> Counter[str]:
    """Items of lists."""
    return Counter(item=len(_ITEM.findall(text)))


def json(text: str) -> Counter[str]:
    """Whether the text is a JSON object or array."""
    if text.strip()[:1] not in ("{", "["):
        return Counter()
    try:
        read_json(text)
    except ValueError:
        return Counter()
    return Counter(json=1)


def _fewer(parts: Callable[[str], Counter[str]]) -> Callable[[str, str, str], bool]:
    return lambda prompt, draft, refined: bool(parts(draft) - parts(refined))


def _other_script(prompt: str, draft: str, refined: str) -> bool:
    """A language is seen by its letters alone: Chinese in place of English, but not French."""
    return None not in (found := {script(draft), script(refined)}) and len(found) > 1


def _unmet(prompt: str, draft: str, refined: str) -> bool:
    return loses(requirements(prompt), draft, refined)


LOST: Mapping[Kept, Callable[[str, str, str], bool]] = {
    "code": _fewer(code),
    "language": _other_script,
    "numbers": _fewer(numbers),
    "urls": _fewer(urls),
    "quotes": _fewer(quotes),
    "lists": _fewer(lists),
    "json": _fewer(json),
    "instructions": _unmet,
}
"""Each by its name in the settings: whether the refined text has lost it, given the prompt."""
BY_DEFAULT: tuple[Kept, ...] = ("code", "language")
"""What no refinement has a reason to lose."""


def lost(kept: Sequence[Kept], prompt: str, draft: str, refined: str) -> Kept | None:
    """Return the first of `kept` that the refined text has lost; None where nothing is."""
    if draft == refined:
        return None
    return next((name for name in kept if LOST[name](prompt, draft, refined)), None)


async def find_lost(kept: Sequence[Kept], prompt: str, draft: str, refined: str) -> Kept | None:
    """`lost`, in a thread where the prompt is read, because a hostile one would hold the event loop."""
    if "instructions" in kept:
        return await asyncio.to_thread(lost, kept, prompt, draft, refined)
    return lost(kept, prompt, draft, refined)


def _script(letter: str) -> str:
    """The first word of Unicode's name of the letter; the scripts that Japanese mixes are one."""
    word = unicodedata.name(letter, "").partition(" ")[0]
    return "HAN" if word in _HAN else word
