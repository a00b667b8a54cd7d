"""The sentences of a prompt that ask something of whoever answers, apart from what they are asked about.

A text that is quoted, or to be worked on, may ask for things too, and these are nobody's wishes. Where it is not clear
where such a text begins and ends, nothing after its beginning is read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from slhf_server.models.requirements.phrases import WORKS, compiled

MOST_CHARACTERS = 10_000
"""A longer prompt is mostly a text to work on, and is not read."""
_LONGEST_SENTENCE = 800
_CLAUSES = 12
"""Of a sentence; what it says after that is not read."""
_MASK = "\0"
_STRAIGHT = str.maketrans({**dict.fromkeys("“”„«»", '"'), **dict.fromkeys("‘’", "'")})

_DEEDS = "write|compose|create|generate|draft|produce|make|give|provide|develop|craft|prepare|need|want|like"
_ORDERED = re.compile(
    rf"\b(?:{_DEEDS})(?:\s+(?:me|us|out))?\s+(?:an?|another|one|two|three|\d+\+?)\b"
    rf"(?:\s+(?!(?:the|this|my|of|about|on|for|to|that|which|from|in)\b)[^\s.?!]+){{0,4}}?\s+(?P<work>{WORKS})\b",
    re.IGNORECASE,
)
_OF_WORK = rf"(?:the|this)\s+(?:(?:entire|whole|full|complete|final)\s+)?(?:{WORKS})\b"
_MENTIONED = re.compile(
    rf"\b(?:in|within|throughout|across|for)\s+{_OF_WORK}"
    rf"|\b{_OF_WORK}(?=\s+(?:must|should|shall|ha[sv]e?|needs?|is|ought)\b)",
    re.IGNORECASE,
)

_FENCE = re.compile(r"^```", re.MULTILINE)
_LONE = re.compile(r'" (and|or) "')
_QUOTED = re.compile(r'"([^"]+?)([.,!?;:]?)"')
_SINGLE = re.compile(r"(?<![\w'])'((?:[^'\n]|(?<=\w)'(?=\w)){1,200})'(?![\w'])")
_CODE = re.compile(r"`([^`\n]{1,200})`")
_TAG = re.compile(r"</?[a-zA-Z]\w{0,30}>")
_PROGRAM = re.compile(
    r"\b(?:python|javascript|typescript|java|html|css|sql|regex|regexp|regular expression|bash|golang|kotlin|php"
    r"|latex|def"
    r"|(?:write|create|implement|code|define|complete|make|need|debug|fix) (?:me |the |this |an? "
    r"|some )?(?:\w+ ){0,3}"
    r"(?:function|program|method|algorithm|code|query|macro|parser|prompt|app|bot|tool|software|form|validator"
    r"|schema|api))\b"
    r"|c\+\+|c#|->|\b\w+\(\w*\)",
    re.IGNORECASE,
)

_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|no|mr|mrs|dr|st|[A-Za-z])\.$", re.IGNORECASE)
_END = re.compile(r"(?<![.!?])[.!?]+[\"')\]]*(?=\s|$)|\n")
_DOUBTFUL = re.compile(
    r"\b(?:if|unless|when|whenever|except|otherwise|until|ideally|preferably|perhaps|maybe|optional|optionally"
    r"|hypothetically"
    r"|not need|not have to|n't need|n't have to|no need|feel free|not necessary|not required|or so"
    r"|where possible|says|said|told)\b",
    re.IGNORECASE,
)
_ASKING = re.compile(
    r"\W*(?:is|are|do|does|did|what|what's|why|how|who|which|whose|should|shall|has|have|was|were|am|isn't|aren't"
    r"|don't you"
    r"|(?:will|can|could|would|may|might) (?!you\b))\b.*\?\W*$",
    re.IGNORECASE | re.DOTALL,
)
_TELLING = re.compile(
    r"\W*(?:(?:i|we) (?!want|need|require|expect|would like|'d like|wish|ask)|(?:i|we)'(?!d like)|"
    r"(?:he|she|they|my|our|his|her|their|people|some|many|most|few|someone|everyone|nobody|in (?:his|her|my|our"
    r"|their))\b)",
    re.IGNORECASE,
)
_NESTED = re.compile(
    r"\b(?:who|which|whose|whom|where|because|since|although|they|he|she|we|said|says|called|titled"
    r"|(?<!sure )(?<!ensure )(?<!note )(?<!such )(?<!so )(?<!remember )that)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w")
_ITEM = re.compile(r"(?:[*+•-]|\d{1,2}[.)]|[a-z]\))\s+")
_BOUNDARY = re.compile(
    r"(?:[,;:()]|--?|–|—)\s+(?:and |but |then |also )?|\s(?:and|but|then|while|yet) |\(", re.IGNORECASE
)

_WORK_ON = (
    "rewrite|re-write|edit|translate|summari[sz]e|paraphrase|proofread|correct|fix|improve|convert|classify|rate|read"
    "|consider|shorten|expand|continue|complete|grade|evaluate|analy[sz]e|critique|rephrase|polish|revise|simplify|extract"
    "|review|check|judge|turn|change|transform|count|identify|compare|explain|interpret|respond to|reply to"
    "|answer (?:this|the|these|my)"
)
_MATERIAL = (
    "text|passage|essay|paragraph|sentences?|article|story|poem|e-?mail|letter|message|post|review|draft|document"
)
_POINTS_ON = re.compile(
    rf"\b(?:here is|here's|here are|below is|below are|is below|are below|as follows)\b"
    rf"|\b(?:{_WORK_ON})\b.{{0,40}}?\b(?:this|these|following|below|my|given|attached|provided)"
    rf" (?:\w+ )?(?:{_MATERIAL})\b"
    rf"|\b(?:{_MATERIAL}) (?:below|attached|that follows)\b|\bfollowing (?:\w+ )?(?:{_MATERIAL})\b",
    re.IGNORECASE | re.DOTALL,
)
_POINTS_BACK = re.compile(
    rf"\bthe (?:above|previous|preceding) \w|\b(?:{_MATERIAL}|conversation|dialogue) above\b|\babove"
    rf" (?:{_MATERIAL})\b",
    re.IGNORECASE,
)
_LABEL = re.compile(
    rf"\W*(?:input|context|question|q|user|human|source|original|(?:{_MATERIAL}))(?: \d+)?\s*:", re.IGNORECASE
)
_OPENS_WORK = re.compile(rf"\b(?:{_WORK_ON})\b[^:]{{0,120}}:(?!//)\s+(?![\"'\[(])", re.IGNORECASE)
_OF_RULES = re.compile(
    r"\b(?:rules?|requirements?|constraints?|guidelines|instructions|conditions|restrictions|criteria|note|notes"
    r"|important)\b"
    r"[^:]{0,40}:",
    re.IGNORECASE,
)
_OF_EXAMPLES = re.compile(r"\b(?:such as|like|for example|e\.g\.|example)\b[^:]{0,40}:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a prompt in which what is quoted is a row of NULs."""

    text: str
    starts: tuple[int, ...]
    """Where the first words of its clauses are."""
    place: int
    """Where in the prompt it begins."""
    prompt: str

    def match(self, phrase: str) -> re.Match[str] | None:
        """Find the phrase where a clause begins."""
        expression = compiled(phrase)
        return next(filter(None, (expression.match(self.text, start) for start in self.starts)), None)

    def said(self, match: re.Match[str], group: str) -> str:
        """What stands in the prompt where the group has matched."""
        start, end = match.span(group)
        return self.prompt[self.place + start : self.place + end]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a prompt asks."""

    prompt: str
    """With straight quotation marks."""
    sentences: tuple[Sentence, ...]

    @classmethod
    def of(cls, prompt: str) -> Self:
        if len(prompt) > MOST_CHARACTERS or _MASK in prompt:
            return cls(prompt, ())
        straight = prompt.translate(_STRAIGHT)
        shown = _without_blocks(straight)
        masked = _masked(shown)
        if shown.count('"') % 2 or _PROGRAM.search(masked):  # where does a quotation end?
            return cls(straight, ())
        works = {match["work"].split()[-1].lower() for match in _ORDERED.finditer(masked)}
        return cls(straight, tuple(_asking(masked, straight, works)))


def _without_blocks(text: str) -> str:
    """The text, as long as it was, with a row of NULs in place of what stands in fences and between tags."""
    for mark in (_FENCE, _TAG):
        marks = [*mark.finditer(text)]
        if len(marks) > 1:  # whatever is between the first and the last, because which one ends which is not sure
            start, end = marks[0].start(), marks[-1].end()
            text = f'{text[:start]}"{_MASK * (end - start - 2)}"{text[end:]}'
    return text


def _masked(text: str) -> str:
    """The text, as long as it was, with NULs in place of what it quotes."""
    text = _LONE.sub(lambda match: f"“ {match[1]} ”", text)
    text = _QUOTED.sub(lambda match: '"' + _MASK * len(match[1]) + match[2] + '"', text)
    text = _CODE.sub(lambda match: "'" + _MASK * len(match[1]) + "'", text)
    return _SINGLE.sub(lambda match: "'" + _MASK * len(match[1]) + "'", text)


def _asking(masked: str, prompt: str, works: set[str]) -> Iterator[Sentence]:
    """The sentences up to where a text to work on begins, and after one that came before."""
    spans = list(_spans(masked))
    back = max((number for number, span in enumerate(spans) if _POINTS_BACK.search(masked, *span)), default=0)
    shown = re.search(rf"{_MASK}{{20}}", masked) is not None  # a text to work on is quoted, so that its end is known
    examples = False
    for start, end in spans[back:]:
        text = masked[start:end]
        if examples and re.match(r"[*+•-]\s", text):
            continue
        examples = bool(text.endswith(":") and _OF_EXAMPLES.search(text))
        if _LABEL.match(text):
            return
        work = _OPENS_WORK.search(text) or (None if shown else _POINTS_ON.search(text))
        if work:  # what follows its colon is the text to work on
            text = text[: text.find(":", work.start())] if ":" in text[work.start() :] else text
        if len(text) <= _LONGEST_SENTENCE and not _is_idle(text, works):
            lead = _ITEM.match(text)
            skipped = lead.end() if lead else 0
            yield Sentence(text[skipped:], _clauses(text[skipped:]), start + skipped, prompt)
        if work or (text.endswith(":") and not (examples or _OF_RULES.search(text))):
            return


def _spans(masked: str) -> Iterator[tuple[int, int]]:
    """Where sentences begin and end; a line break ends one."""
    start = 0
    for match in _END.finditer(masked):
        if match[0] != "\n" and _goes_on(masked, match):
            continue
        if masked[start : match.end()].strip():
            yield _trimmed(masked, start, match.end())
        start = match.end()
    if masked[start:].strip():
        yield _trimmed(masked, start, len(masked))


def _goes_on(masked: str, match: re.Match[str]) -> bool:
    """Whether the sentence goes on behind a full stop: of an abbreviation, a number or a quotation within it."""
    follows = masked[match.end() : match.end() + 3].lstrip(" ")[:1]
    if match[0] == ".":
        before = masked[max(0, match.start() - 12) : match.end()]
        if re.search(r"(?:^|\n)\s*\d{1,2}\.$", before) or (_ABBREVIATION.search(before) and not follows.isupper()):
            return True
    return match[0][-1] in "\"')" and not follows.isupper() and follows != ""


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())


def _is_idle(text: str, works: set[str]) -> bool:
    """Whether the sentence asks for nothing, or for nothing that is sure."""
    if _DOUBTFUL.search(text) or _ASKING.match(text) or _TELLING.match(text):
        return True
    if any(match[0].split()[-1].lower() not in works for match in _MENTIONED.finditer(text)):
        return True  # "the essay" of a prompt that wants none written is somebody's
    return re.match(r"\W*(?:it|this|that|they)\b", text, re.IGNORECASE) is not None and not works


def _clauses(text: str) -> tuple[int, ...]:
    """Where clauses begin that are the sentence's own."""
    starts = [0]
    for match in _BOUNDARY.finditer(text):
        if len(starts) == _CLAUSES or _NESTED.search(text, 0, match.start()):
            break
        starts.append(match.end())
    return tuple(dict.fromkeys(word.start() for start in starts if (word := _WORD.search(text, start))))


def items(listed: str) -> tuple[str, ...]:
    """The words of a list as it was said: `"a", "b" and c`, `['a', 'b']`."""
    parts = re.findall(r"\"([^\"]+)\"|'((?:[^'\n]|(?<=\w)'(?=\w))+)'|([\w'-]+)", listed)
    found = [next(filter(None, part)).strip() for part in parts]
    return tuple(word for word in found if word and word.lower() not in ("and", "or", "nor", "as", "well"))
