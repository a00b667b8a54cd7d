"""Reads which words, letters and marks an answer has to have, and which it may not have."""

import re
from collections.abc import Mapping, Sequence

from slhf_server.models.requirements import measures
from slhf_server.models.requirements.amounts import TOPIC, WORK, amount, bounds, counted, wish_of
from slhf_server.models.requirements.asked import Asked, Sentence, items
from slhf_server.models.requirements.phrases import END, MODAL, QUOTE, SUBJECT, WITHIN, wish
from slhf_server.models.requirements.requirement import Check, Requirement

_MOST_WORDS = 20
_NOT = (
    r"(?:do not|don't|never|avoid|refrain from|without|you (?:mustn't|shouldn't|can't|cannot)"
    r"|you (?:must|should|may|can|are) not(?: allowed to| supposed to| to)?)"
)
_USE = (
    r"(?:(?:use|using|include|including|have|having|put|write|writing|contain|containing|add|the use of|mention"
    r"|mentioning)"
    r"(?: of)? )?"
)
_ANY = r"(?:(?:any|a single|the|all|of|single) ){0,2}"


def _absent(what: str) -> str:
    """The sentences that forbid it in the answer."""
    where = rf"(?: {MODAL} be (?:used|present|included)| (?:is|are) (?:allowed|permitted))?"
    return wish(
        rf"(?:{_NOT} {_USE}{_ANY}{what}|(?:leave out|omit) {_ANY}{what}"
        rf"|(?:(?:write|answer|respond|reply)(?: {SUBJECT})? (?:without|with no) {_USE}{_ANY}{what})"
        rf"|(?:(?:use|with|include|{SUBJECT} {MODAL} (?:have|contain|include|use)) )?no {what}{where}"
        rf"|(?:there|{SUBJECT}) {MODAL} (?:be|contain|have|use) no {what}"
        rf"|(?:{SUBJECT}) {MODAL} not (?:contain|have|include|use) {_ANY}{what}"
        rf"|{what} (?:are|is) (?:forbidden|not allowed|prohibited|banned|not permitted)"
        rf"|{SUBJECT} {MODAL} be (?:free of|without) {_ANY}{what}){WITHIN}(?:{END}|(?= or\b))"
    )


_MARKS: Mapping[str, tuple[str, str]] = {
    "commas": (_absent("commas?"), ","),
    "exclamation_marks": (_absent("exclamation (?:marks?|points?)"), "!"),
    "question_marks": (_absent("question marks?"), "?"),
    "semicolons": (_absent("semi-?colons?"), ";"),
}
_SMALL = r"(?:small letters?|lower ?-?case(?: letters?)?)"
_CAPITAL = r"(?:(?:capital|upper ?-?case)(?: letters?)?|(?:all )?capitals|(?:all )?caps)"


def _case(wanted: str, other: str) -> tuple[str, ...]:
    """The sentences that want one case in all of the answer; the first ones forbid the other."""
    every = r"(?:all|only|entirely|exclusively|completely)(?: in)?"
    written, whole = rf"(?:{every} )?(?:the )?{wanted}(?: only)?", rf"(?:{every} {wanted}|{wanted} only)"
    return (
        _absent(other),
        wish(
            rf"(?:(?:write|compose|create|give me) {WORK} (?:(?:about|to|for|on) {TOPIC})?(?:in|using) {every} {wanted}"
            rf"|(?:write|answer|respond|reply|keep|put|present)(?: {SUBJECT})? (?:in english,? and )?"
            rf"(?:in|using) {written}"
            rf"|{SUBJECT} {MODAL} be (?:written )?(?:in english,? (?:and )?)?(?:in |using )?{written}"
            rf"|(?:written )?(?:in|using) {every} {wanted}|(?:use|{SUBJECT} {MODAL} use) {whole}){WITHIN}{END}"
        ),
    )


_LOWER, _UPPER = _case(_SMALL, _CAPITAL), _case(_CAPITAL, _SMALL)

_WORD = rf"(?:{QUOTE}|[A-Za-z][\w'-]{{0,30}})"
_LIST = rf"(?P<words>[\[(]?{_WORD}(?:(?:, (?:and |or )?| and | or | as well as ){_WORD}){{0,{_MOST_WORDS}}}[\])]?)"
_KIND = r"(?P<kind>keywords?|words?|terms?|phrases?)(?P<colon>:)?"
_WHICH = r"(?: all)?(?: of)?(?: (?P<the>the|these|both))?(?: (?:following|exact|specific))?"
_HAVE = (
    r"(?:include|use|mention|contain|make use of|work in|incorporate|add|insert"
    rf"|{SUBJECT} {MODAL} (?:include|contain|use|mention|have))"
)
_AMONG = rf"(?:(?:include|incorporate)(?: the)? keywords?|{SUBJECT} {MODAL} include(?: the)? keywords?)"
_INCLUDED = (
    wish(rf"{_HAVE}{_WHICH} {_KIND}(?: in {SUBJECT}:?)? {_LIST}{WITHIN}{END}"),
    wish(rf"{_AMONG} (?P<words>[\[(]{_WORD}(?:, ?{_WORD}){{0,{_MOST_WORDS}}}[\])])"),
)
_EXCLUDED = (
    wish(
        rf"(?:(?:(?:write|answer|respond|reply)(?: {SUBJECT})? )?{_NOT} {_USE}(?:any of )?|do without )"
        rf"(?:(?P<the>the|these) )?(?:(?:following|specific) )?{_KIND} {_LIST}{WITHIN}{END}"
    ),
    wish(
        rf"(?:do not|don't|never) (?:mention|use|say|include|write) (?P<words>{QUOTE}(?:(?:,? or |, ){QUOTE}){{0,9}})"
        rf"{WITHIN}{END}"
    ),
    wish(rf"neither (?P<words>{_WORD} nor {_WORD}) (?:may|must|should|can) (?:occur|appear|be used){WITHIN}{END}"),
)
_NO_KEYWORDS = frozenset(
    "count counts limit limits of for from that which to with in on above below listed provided given here there again"
    " twice often everywhere throughout only carefully you your it is are list like such problem problems play choice"
    " search cloud bank processor processors processing wrap art bubble order game games if related relevant correctly"
    " properly wisely about used yourself itself they this these".split()
)
"""What follows "the words" where no list of them does."""
_APPEARS = rf"(?:{MODAL} )?(?:appears?|occurs?|shows? up|be used|be mentioned|be included)(?: in {SUBJECT})?"
_TIMES = rf"{amount('times?')}{WITHIN}{END}"
_LETTER = wish(rf"(?:(?:use|include|i want to see) )?the letter [\"']?(?P<word>[a-z\0])[\"']?(?: {_APPEARS})? {_TIMES}")
_ONE = rf"(?P<word>{QUOTE}|[A-Za-z][\w'-]{{1,30}})"
_OFTEN = (
    wish(
        r"(?:use|include|say|mention|repeat|have|write)(?: the (?:word|term|keyword|phrase|name))?"
        rf" {_ONE}(?: in {SUBJECT})? {_TIMES}"
    ),
    wish(rf"the (?:word|term|keyword|phrase) {_ONE} {_APPEARS} {_TIMES}"),
)
_CAPITAL_WORDS = (
    wish_of(r"words (?:in|with|written in) (?:all )?(?:capital letters|capitals|caps|uppercase)"),
    wish(rf"(?:use )?words (?:in|with) all (?:capital letters|capitals|caps)(?: {_APPEARS})? {_TIMES}"),
)


def punctuation(sentence: Sentence, asked: Asked) -> Requirement | None:
    for name, (forbidden, mark) in _MARKS.items():
        if sentence.match(forbidden):
            return Requirement(f"no_{name}", (_without(mark),), mark)
    return None


def lowercase(sentence: Sentence, asked: Asked) -> Requirement | None:
    return Requirement("lowercase", (str.islower,), "A-Z") if any(map(sentence.match, _LOWER)) else None


def uppercase(sentence: Sentence, asked: Asked) -> Requirement | None:
    return Requirement("uppercase", (str.isupper,), "a-z") if any(map(sentence.match, _UPPER)) else None


def keywords(sentence: Sentence, asked: Asked) -> Requirement | None:
    """Missed is a word that is not even a part of another one."""
    if not (found := _first_list(sentence, _INCLUDED)):
        return None
    whole, parts = [*map(measures.whole_word, found)], [word.casefold() for word in found]
    return Requirement(
        "keywords",
        (
            lambda text: all(word.search(text) for word in whole),
            lambda text: all(part in text.casefold() for part in parts),
        ),
    )


def forbidden_words(sentence: Sentence, asked: Asked) -> Requirement | None:
    if not (found := _first_list(sentence, _EXCLUDED)):
        return None
    whole = [*map(measures.whole_word, found)]
    return Requirement("forbidden_words", (lambda text: not any(word.search(text) for word in whole),))


def letter_frequency(sentence: Sentence, asked: Asked) -> Requirement | None:
    match = sentence.match(_LETTER)
    return match and counted(
        "letter_frequency", bounds(match, bare=False), measures.letters(sentence.said(match, "word"))
    )


def word_frequency(sentence: Sentence, asked: Asked) -> Requirement | None:
    match = next(filter(None, map(sentence.match, _OFTEN)), None)
    if match is None or not (word := items(sentence.said(match, "word"))):
        return None
    return counted("word_frequency", bounds(match, bare=False), measures.words(word[0]))


def capital_words(sentence: Sentence, asked: Asked) -> Requirement | None:
    match = next(filter(None, map(sentence.match, _CAPITAL_WORDS)), None)
    return match and counted("capital_words", bounds(match, bare=False), measures.CAPITAL_WORDS)


def _without(mark: str) -> Check:
    return lambda text: mark not in text


def _first_list(sentence: Sentence, asking: Sequence[str]) -> Sequence[str]:
    lists = (_listed(sentence, match) for one in asking if (match := sentence.match(one)))
    return next(filter(None, lists), ())


def _listed(sentence: Sentence, match: re.Match[str]) -> Sequence[str]:
    """The words of a list, or none where it is not sure that it is one: "include the keywords naturally"."""
    said, groups = sentence.said(match, "words"), match.groupdict()
    found = items(said)
    if len(found) > _MOST_WORDS:
        return ()
    if "\0" in match["words"] or said.startswith(("[", "(")):
        return found
    one, several = not (groups.get("kind") or "words").endswith("s"), len(found) > 1
    sure = groups.get("colon") or (bool(groups.get("the", "the")) and (several or one) and not (several and one))
    return found if sure and not any(word.lower() in _NO_KEYWORDS for word in found) else ()
