"""Amounts in English, "at least 300 words", and the sentences that ask for them."""

import re
from collections.abc import Sequence

from slhf_server.models.requirements.measures import Measure
from slhf_server.models.requirements.phrases import END, MODAL, NOUN, SUBJECT, WITHIN, wish
from slhf_server.models.requirements.requirement import Check, Requirement

_NAMED = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"),
    *("fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
NUMBER = rf"(?:\d{{1,3}},\d{{3}}|\d{{1,5}}|(?:{'|'.join(sorted(_NAMED, key=len, reverse=True))})\b)"
_BEFORE = (
    r"(?:(?P<least>at least|(?:a )?minimum(?: of)?|(?:no|not) (?:fewer|less) than)"
    r"|(?P<most>at most|(?:a )?max(?:imum)?(?: of)?|(?:no|not) more than|up to|within)"
    r"|(?P<above>more than|above)|(?P<over>over)|(?P<below>(?:fewer|less|shorter) than|under|below)|(?P<exactly>exactly"
    r"|precisely)|between)"
)
_MORE, _FEWER = "or more|at least|(?:at )?minimum", "or fewer|or less|at most|max(?:imum)?"


def amount(unit: str) -> str:
    return (
        rf"(?:{_BEFORE} )?(?P<n>{NUMBER})(?:(?: to | and | ?[-–] ?)(?P<m>{NUMBER}))?(?P<plus> ?\+)?"
        rf"(?: (?:(?P<more>{_MORE})|(?P<fewer>{_FEWER})))?(?: |-)(?:{unit})\b"
        rf"(?: (?:(?P<more_of>{_MORE})|(?P<fewer_of>{_FEWER}))\b)?"
    )


_DEED = (
    r"(?:write|give|provide|use|include|answer|respond|reply|list|make|create|generate|produce|have|add|put in|compose"
    r"|explain|describe|summari[sz]e|stay|leave|(?P<limit>keep|limit|restrict)|draft|contain|format|structure|put|split"
    r"|divide|organi[sz]e|present)"
)
_NOT_OF = r"(?!(?:with|of|in|about|for|and|that|which|to|on|an?|the|my|this)\b)"
WORK = rf"an? (?:{_NOT_OF}[^\s,.]+ ){{0,3}}{NOUN}"
TOPIC = r"(?:(?!(?:who|which|that|where|how|when|writ\w+|wrote|said|speak\w*)\b)[^\s,;:()]+ ){1,15}?"
_OPENING = (
    rf"(?:{SUBJECT} {MODAL} (?:(?:also|only) )?(?:(?:be|have|contain|include|consist|comprise|use|feature)"
    r"(?: written)? )?(?:(?:of|in) )?"
    rf"|{_DEED} (?:(?:(?:{SUBJECT}|me|us|{WORK}) )?"
    r"(?:(?:in|with|using|of|within|to|into|at|containing|a list of|a total of|the form of) ){0,2}"
    rf"|(?:me )?(?P<adjective>an?) |{TOPIC}(?:in|using|within) )"
    rf"|(?:there {MODAL} be|i (?:want|need|would like)(?: to see| a list of)?|i'd like) "
    r"|(?P<alone>(?:in|with|using|within) )?)"
)


def wish_of(unit: str, rest: str = "") -> str:
    """The sentences that want an amount of this unit in the answer; `rest` is what may follow it."""
    adjective = rf"(?: {_NOT_OF}[\w-]+){{0,3}} {NOUN}\b"
    return wish(rf"{_OPENING}{amount(unit)}(?(adjective){adjective}|{rest}{WITHIN}{END})")


def bounds(match: re.Match[str], *, bare: bool) -> tuple[int, int | None] | None:
    """The least and the most that are asked for; None: it is not sure. `bare`: a number alone is meant exactly."""
    said = {name for name, group in match.groupdict().items() if group is not None}
    first = number(match["n"])
    least, most = said & {"least", "more", "more_of", "plus"}, said & {"most", "fewer", "fewer_of"}
    if least and most:
        return None
    if "m" in said:
        last = number(match["m"])
        return (first, last) if first < last and not (least or most) else None
    above = said & {"above"} or (not bare and said & {"over"})
    if least or above:
        return first + bool(above), None
    if most or "below" in said:
        return 0, first - ("below" in said)
    if "over" in said:  # a story over 3 paragraphs
        return None
    if "limit" in said and "exactly" not in said:
        return 0, first
    return (first, first) if "exactly" in said or (bare and "alone" not in said) else None


def counted(name: str, wanted: tuple[int, int | None] | None, by: Sequence[Measure]) -> Requirement | None:
    if wanted is None:
        return None
    least, most = wanted

    def check(measure: Measure) -> Check:
        return lambda text: least <= (count := measure(text)) and (most is None or count <= most)

    return Requirement(name, tuple(map(check, by)))


def number(said: str) -> int:
    plain = said.lower().replace(",", "")
    return _NAMED.index(plain) + 1 if plain in _NAMED else int(plain)
