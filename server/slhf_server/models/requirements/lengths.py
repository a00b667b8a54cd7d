"""Reads how long an answer has to be, and of how many parts."""

import re

from slhf_server.models.requirements import measures
from slhf_server.models.requirements.amounts import NUMBER, amount, bounds, counted, number, wish_of
from slhf_server.models.requirements.asked import Asked, Sentence
from slhf_server.models.requirements.phrases import END, SUBJECT, wish
from slhf_server.models.requirements.requirement import Requirement

_ON = r"(?: (?:about|on|describing|explaining|summari[sz]ing|discussing) [^,;:()]{1,200})?"
_WORDS, _SENTENCES, _PARAGRAPHS = wish_of("words?", _ON), wish_of("sentences?", _ON), wish_of("paragraphs?", _ON)
_BULLET = r"(?:markdown )?(?:bullet(?:ed)?[ -]?points?|bullets)"
_BULLETS = (wish_of(_BULLET, "(?: [^;]{0,200})?"), wish(rf"use markdown bullets, {amount('of them')}"))
_PLACEHOLDERS = wish_of(r"(?:[\w-]+ ){0,2}?(?:placeholders|gaps)", r"(?: [^;]{0,120})?")
_SECTIONS = (
    wish_of(r"sections|parts", r"(?: [^;]{0,160})?"),
    wish(rf"(?:structure|organi[sz]e) {SUBJECT} as (?P<word>[a-z]+) 1 to (?P<same>[a-z]+) (?P<n>{NUMBER}){END}"),
)
_HIGHLIGHTS = wish(
    r"(?:highlight|emphasi[sz]e|mark|put|italici[sz]e|bold) "
    rf"{amount('(?:[a-z-]+ )?(?:sections?|parts?|passages?|phrases?|words?|points?)')}"
)
_PARTS = re.compile(
    r"\b(?:each|every|per|respectively|first|last|(?:title|heading|headline|name|subject|section|bullet|point|item"
    r"|introduction|intro"
    r"|conclusion|abstract|example|definition|caption|slogan|hashtag|step|reason|line|stanza|verse|option|question"
    r"|comment|quote)s?)\b",
    re.IGNORECASE,
)
"""What may be so long in the answer's place."""
_EACH = re.compile(
    r"\b(?:per|every|(?:for|in|under|of|to|from) each|each (?:section|topic|paragraph|part))\b", re.IGNORECASE
)
_DIVIDES = re.compile(r"\b(?:separate|separated|divide|divided|between|mark|divider|parted|delimited)\b", re.IGNORECASE)
_THREE_STARS = re.compile(r"(?<!\*)\*{3}(?!\*)")
_BRACKETS = re.compile(r"square brackets?|\[[\w ]{1,40}\]|bracketed", re.IGNORECASE)
_ASTERISKS = re.compile(r"\*[\w ]{1,60}\*|asterisk|markdown", re.IGNORECASE)
_HEADINGS = (
    re.compile(
        r"\b(?:mark|begin|start)(?: the)?(?: beginning of)? (?:each|every)(?: (?:section|part|one))? with "
        r"[\"']?(?!(?:the|an)\b)(?P<word>[a-z]{2,20}) (?:x|1)\b",
        re.IGNORECASE,
    ),
    re.compile(r"\bheadings? \"(?P<word>\0{2,20})\"", re.IGNORECASE),
)


def words(sentence: Sentence, asked: Asked) -> Requirement | None:
    match = None if _PARTS.search(sentence.text) else sentence.match(_WORDS)
    return match and counted("words", bounds(match, bare=False), measures.WORDS)


def sentences(sentence: Sentence, asked: Asked) -> Requirement | None:
    match = None if _PARTS.search(sentence.text) else sentence.match(_SENTENCES)
    return match and counted("sentences", bounds(match, bare=True), measures.SENTENCES)


def paragraphs(sentence: Sentence, asked: Asked) -> Requirement | None:
    """Divided by *** where the prompt says so, else by blank lines or by line breaks."""
    match = None if _EACH.search(sentence.text) else sentence.match(_PARAGRAPHS)
    if not match:
        return None
    starred = _THREE_STARS.search(asked.prompt) and any(_DIVIDES.search(one.text) for one in asked.sentences)
    return counted(
        "paragraphs", bounds(match, bare=True), measures.DIVIDED_PARAGRAPHS if starred else measures.PARAGRAPHS
    )


def bullet_points(sentence: Sentence, asked: Asked) -> Requirement | None:
    match = None if _EACH.search(sentence.text) else next(filter(None, map(sentence.match, _BULLETS)), None)
    return match and counted("bullet_points", bounds(match, bare=True), measures.BULLETS)


def placeholders(sentence: Sentence, asked: Asked) -> Requirement | None:
    match = sentence.match(_PLACEHOLDERS) if _BRACKETS.search(sentence.text) else None
    return match and counted("placeholders", bounds(match, bare=False), measures.PLACEHOLDERS)


def highlights(sentence: Sentence, asked: Asked) -> Requirement | None:
    match = sentence.match(_HIGHLIGHTS) if _ASTERISKS.search(sentence.text) else None
    return match and counted("highlights", bounds(match, bare=False), measures.HIGHLIGHTS)


def sections(sentence: Sentence, asked: Asked) -> Requirement | None:
    """With numbered headings: more of them than asked for are no fault."""
    if match := sentence.match(_SECTIONS[1]):
        if match["word"].lower() != match["same"].lower():
            return None
        return counted("sections", (number(match["n"]), None), measures.sections(match["word"]))
    if not (match := sentence.match(_SECTIONS[0])) or not (wanted := bounds(match, bare=True)):
        return None
    for one in asked.sentences:
        for heading in _HEADINGS:
            if found := heading.search(one.text):
                word = re.sub(r"\W|\d", "", one.said(found, "word"))
                return counted("sections", (wanted[0], None), measures.sections(word)) if word else None
    return None
