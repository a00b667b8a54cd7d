"""Reads which form an answer has to have as a whole: JSON, quotation marks, a title, an ending."""

import re

from slhf.json_text import read_json
from slhf_server.models.requirements.asked import Asked, Sentence, items
from slhf_server.models.requirements.phrases import END, MODAL, QUOTE, SUBJECT, WITHIN, wish
from slhf_server.models.requirements.requirement import Requirement

_GIVE = (
    rf"(?:answer|respond|reply|write|output|return|give|provide|format|wrap|put|present)(?: {SUBJECT}| everything"
    rf"| me)?"
)
_JSON = wish(
    rf"(?:{_GIVE}(?: back)?|i(?: would like| want|'d like)|{SUBJECT} {MODAL} be|use) (?:(?:wrapped|formatted"
    rf"|written|returned|given|only) )?"
    r"(?:(?:in|as|with|using|inside) )?(?:(?:an?|the|only|pure|single|valid|strict|proper|raw|one"
    r"|well-formed) ){0,3}json"
    rf"(?: (?:format|object|array|block|output|back|only|code block|data|document))?{WITHIN}{END}"
)
_FENCED = re.compile(r"```[ \t]*(?:json)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_MARKS = r"(?:double )?(?:quotation marks?|quotes)"
_QUOTED = wish(
    rf"(?:(?:wrap|enclose|put|surround|place) {SUBJECT} (?:in|inside|within|with|between|by) (?:a pair of )?{_MARKS}"
    rf"|(?:put|place) {_MARKS} around {SUBJECT}|{SUBJECT} {MODAL} (?:(?:stand|be) )?(?:(?:wrapped|enclosed|put"
    rf"|placed) )?"
    rf"(?:between|in|inside|within|with|by) (?:{_MARKS}|“ and ”)"
    rf"|(?:start|begin) and (?:end|finish|close) {SUBJECT} with (?:a |an )?(?:double )?(?:quotation marks?"
    rf"|quotes?)){WITHIN}{END}"
)
_TITLE = wish(
    r"(?:give (?:it|(?:your|the) \w+)|put|add|include|begin with|start with|write|have|use|provide|it needs|"
    rf"(?:{SUBJECT}|there) {MODAL} (?:contain|have|include|be|need)) (?:an? |the )?(?:title|heading)\b"
)
_ANGLES = re.compile(r"<<|double ang(?:ular|le) brackets", re.IGNORECASE)
_POSTSCRIPT = wish(
    rf"(?:after {SUBJECT},? |(?:at|by) the end of {SUBJECT},? (?:please )?(?:explicitly )?)?"
    r"(?:add|include|append|close with|end with|finish with|write|put|do not forget|don't forget|i want)(?: to"
    r" (?:add|include|write))?"
    r"(?: (?:your|the) \w+)?(?: with)? (?:an? )?(?:postscript|p\.? ?(?:p\.? ?)?s\b|line that (?:starts"
    r"|begins) with p\.)"
)
_MARKER = re.compile(r"\bP\. ?P\. ?S\b\.?|\bP\. ?S\.", re.IGNORECASE)
_LAST_PART = re.compile(r"\bpostscript|\bend\b|\bbottom\b|\bafter\b|\bclose\b", re.IGNORECASE)
_ANY_MARKER = re.compile(r"\bp\W{0,2}s\b", re.IGNORECASE)
_ENDS = wish(
    rf"(?:end|finish|conclude|close)(?: {SUBJECT})? (?:with|by saying) (?:(?:the|this|these) )?(?P<exact>exact "
    rf"|very )?(?:following )?"
    rf"(?:phrase|sentence|words|line|question|statement)?(?: and add nothing"
    rf"| and nothing else)?(?P<colon>:)? ?(?P<end>{QUOTE}|(?-i:[A-Z0-9])[^\0\n]{{3,200}}$)"
)
_LAST = wish(
    rf"(?:your|the) (?:very )?last (?:words|sentence|line|phrase)(?: of {SUBJECT})? (?:{MODAL} be"
    rf"|is)(?P<colon>:)? ?(?P<end>{QUOTE}|(?-i:[A-Z0-9])[^\0\n]{{3,200}}$)"
)
_REPEATS = wish(
    r"(?:(?:first|before you answer|before answering|start by|begin by)[,:]? )?"
    r"(?:repeat|repeating|copy|copying|say|restate) (?:(?:the|this|my)(?: (?:entire|whole|full|above|exact))*"
    r" (?:request|question|prompt|instruction)|what is asked)\b"
)
_VERBATIM = re.compile(
    r"\bword[ -]for[ -]word\b|\bverbatim\b|\bwithout (?:any )?chang|\bexactly\b|\bunchanged\b", re.IGNORECASE
)
_THEN = re.compile(r"\b(?:first|before|then|start|begin)\b", re.IGNORECASE)
_TWO = wish(
    r"(?:(?:give|write|provide|generate|create|i would like|i'd like|i want)(?: me)? (?:exactly )?(?:two|2)"
    r" (?:\w+ )?(?:responses|answers|alternatives|versions)"
    r"|answer twice)\b"
)
_SIX_STARS = re.compile(r"(?<!\*)\*{6}(?!\*)|\bsix (?:asterisks|stars|asterisk symbols)\b")
_OPTIONS = wish(
    r"(?:answer|respond|reply|choose|pick)(?: (?:the|your|this|my) \w+)? (?:with "
    r"|from )?(?:exactly )?(?:one )?(?:of |from )?(?:the following)"
    rf"(?: (?:options|phrases|answers|sentences|choices|words))?:? [(\[]?(?P<words>{QUOTE}(?:,? (?:and "
    rf"|or )?{QUOTE}){{1,9}})"
)


def json(sentence: Sentence, asked: Asked) -> Requirement | None:
    """The whole answer, or what stands in its fence; missed is one that has no JSON to take out of it."""
    return Requirement("json", (_is_json, _holds_json)) if sentence.match(_JSON) else None


def quoted(sentence: Sentence, asked: Asked) -> Requirement | None:
    return Requirement("quoted", (_is_quoted,)) if sentence.match(_QUOTED) else None


def title(sentence: Sentence, asked: Asked) -> Requirement | None:
    wanted = sentence.match(_TITLE) and _ANGLES.search(sentence.text)
    return Requirement("title", (_has_title,)) if wanted else None


def postscript(sentence: Sentence, asked: Asked) -> Requirement | None:
    wanted = sentence.match(_POSTSCRIPT) and _LAST_PART.search(sentence.text)
    if not wanted or not (marker := _MARKER.search(sentence.text)):
        return None
    dotted = re.compile(r"[ \t]?".join(re.escape(one) for one in marker[0].rstrip(".")), re.IGNORECASE)
    return Requirement(
        "postscript", (lambda text: bool(dotted.search(text)), lambda text: bool(_ANY_MARKER.search(text)))
    )


def ending(sentence: Sentence, asked: Asked) -> Requirement | None:
    """The last words; what marks follow them is not looked at where a text is said to miss them."""
    match = sentence.match(_ENDS) or sentence.match(_LAST)
    if not match or not (match["end"].startswith(('"\0', "'\0")) or match["colon"] or match.groupdict().get("exact")):
        return None
    end = sentence.said(match, "end").strip("\"' \n")
    plain = _letters(end)
    if not plain:
        return None
    return Requirement(
        "ending",
        (
            lambda text: text.rstrip(" \n\t\"'").casefold().endswith(end.casefold()),
            lambda text: _letters(text[-4 * len(end) - 200 :]).endswith(plain),
        ),
    )


def repeated_request(sentence: Sentence, asked: Asked) -> Requirement | None:
    """The request is what stands before the sentence that asks for its repetition."""
    request = " ".join(asked.prompt[: sentence.place].split()).casefold()
    wanted = sentence.match(_REPEATS) and _VERBATIM.search(sentence.text) and _THEN.search(sentence.text)
    if not wanted or not (beginning := _letters(request)[:40]):
        return None
    return Requirement(
        "repeated_request",
        (
            lambda text: " ".join(text.split()).casefold().startswith(request),
            lambda text: beginning in _letters(text),
        ),
    )


def two_answers(sentence: Sentence, asked: Asked) -> Requirement | None:
    wanted = sentence.match(_TWO) and _SIX_STARS.search(asked.prompt)
    return Requirement("two_answers", (_has_two_parts,)) if wanted else None


def options(sentence: Sentence, asked: Asked) -> Requirement | None:
    if not (match := sentence.match(_OPTIONS)):
        return None
    said = [one.casefold().rstrip(".") for one in items(sentence.said(match, "words"))]
    return Requirement("options", (lambda text: any(one in text.casefold() for one in said),))


def _letters(text: str) -> str:
    """Words alone, small and with one space between them."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _is_json(text: str) -> bool:
    bare = text.strip()
    if fence := _FENCED.fullmatch(bare):
        bare = fence[1]
    return bare.strip()[:1] in ("{", "[") and _reads(bare)


def _holds_json(text: str) -> bool:
    first, last = text.find("{"), text.rfind("}")
    inner = text[first : last + 1] if 0 <= first < last else text
    return any(map(_reads, (text, inner, *_FENCED.findall(text)[:9])))


def _reads(text: str) -> bool:
    try:
        read_json(text)
    except ValueError:
        return False
    return True


def _is_quoted(text: str) -> bool:
    bare = text.strip()
    return len(bare) > 1 and bare[0] in '"“' and bare[-1] in '"”'


def _has_title(text: str) -> bool:
    return re.search(r"<<[^\n<>]*\w[^\n<>]*>>", text) is not None


def _has_two_parts(text: str) -> bool:
    parts = [part.strip() for part in text.split("******") if part.strip(" *\n\t")]
    return len(parts) == 2 and parts[0] != parts[1]
