"""Instructions that a program can check: IFEval's kinds (Zhou et al. 2023, arXiv 2311.07911), by programs written here,
and IFBench's (Pyatkin et al. 2025, arXiv 2507.02833), by its authors' checkers.

Of IFEval's kinds those are left out that need a sentence or word tokenizer or a language detector:
language:response_language, change_case:english_capital, change_case:english_lowercase,
change_case:capital_word_frequency and length_constraints:number_sentences. IFBench's checkers come from the package
if-verifiable (the extra `ifbench`), which holds them as Allen AI published them, but for a few guards. The loose rule
also tries an answer without its first or last line and without asterisks, as both papers do.
"""

import inspect
import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator

from slhf_training.config import Section

_GROUPS = frozenset({"count", "custom", "format", "ratio", "repeat", "sentence", "words"})
"""IFBench's groups of kinds, which stand before the colon. IFEval has none of them."""
_PUNKT = "tokenizers/punkt_tab"
_DATA: Mapping[str, tuple[str, ...]] = {
    "format:title_case": (_PUNKT,),
    "ratio:stop_words": ("corpora/stopwords",),
    "words:keywords_specific_position": (_PUNKT,),
    "words:start_verb": (_PUNKT, "taggers/averaged_perceptron_tagger_eng"),
    "words:words_position": (_PUNKT,),
}
"""The data of NLTK that a kind needs; kinds that are not listed need none."""


def _ifbench_obstacle(kind: str, arguments: Mapping[str, Any]) -> str | None:
    """Return why an instruction cannot be checked here; None where it can."""
    unknown = "no program here knows it"
    if kind.partition(":")[0] not in _GROUPS:
        return unknown
    try:
        known = _checkers()
    except ModuleNotFoundError as exc:
        package = str(exc.name).partition(".")[0]
        return f"the package {package} is not installed: pip install 'slhf-training[ifbench]'"
    if kind not in known:
        return unknown
    if absent := [place.partition("/")[2] for place in _DATA.get(kind, ()) if not _is_here(place)]:
        return f"nltk has no {', '.join(absent)}: python -m nltk.downloader {' '.join(absent)}"
    return _misfit(known[kind](kind), arguments)


def _ifbench_follows(kind: str, answer: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether an answer that is not blank follows an instruction that has no obstacle."""
    checker = _checkers()[kind](kind)
    checker.build_description(**arguments)
    try:
        return bool(checker.check_following(answer))
    except IndexError:  # a checker looked for a word or a letter that the answer does not have
        return False


@cache
def _checkers() -> Mapping[str, Any]:
    """Return the authors' checkers, which are classes, by kind. Raises ModuleNotFoundError.

    The package downloads data that NLTK lacks when it is imported. That is prevented here, because otherwise the
    network would decide what can be checked.
    """
    import nltk

    download, nltk.download = nltk.download, lambda *_, **__: False
    try:
        from if_verifiable.ifbench import INSTRUCTION_DICT
    finally:
        nltk.download = download
    checkers: Mapping[str, Any] = INSTRUCTION_DICT
    return checkers


def _is_here(place: str) -> bool:
    import nltk

    try:
        nltk.data.find(place)
    except LookupError:
        return False
    return True


def _misfit(checker: Any, arguments: Mapping[str, Any]) -> str | None:
    """Return why the arguments do not fit; None where they do.

    A checker draws missing arguments at random, and some take 0 for missing: no two runs would then check the same.
    """
    before = random.getstate()
    try:
        checker.build_description(**arguments)
        has_drawn = random.getstate() != before
    except (TypeError, ValueError) as exc:
        return f"its arguments do not fit: {exc}"
    finally:
        random.setstate(before)
    used = checker.get_instruction_args() or {}
    drawn = [name for name, value in used.items() if not arguments.get(name) or arguments[name] != value]
    return f"its checker draws {', '.join(drawn)} by lot, as if it were not given" if has_drawn else None


Checker = Callable[..., bool]
"""Tells whether an answer follows an instruction, whose own arguments are given by name."""
Rule = Callable[[str, str, Mapping[str, Any]], bool]
"""Takes a kind, an answer and the instruction's arguments, and tells whether the answer follows the instruction."""

_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def given_arguments(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments that are not null: published files name those of every kind, with null for other kinds'."""
    return {name: value for name, value in arguments.items() if value is not None}


def unchecked(kinds: Iterable[str], arguments: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the kinds among these instructions that nothing here can check, each with the reason."""
    found = ((kind, _obstacle(kind, given)) for kind, given in zip(kinds, arguments, strict=False))
    return {kind: reason for kind, reason in found if reason is not None}


def refusal(reasons: Mapping[str, str]) -> str:
    """Return what `unchecked` found as a sentence."""
    kinds = {why: ", ".join(sorted(kind for kind in reasons if reasons[kind] == why)) for why in reasons.values()}
    return "there is no check for " + "; ".join(f"{names} ({why})" for why, names in kinds.items())


def _obstacle(kind: str, arguments: Mapping[str, Any]) -> str | None:
    if kind not in KINDS:
        return _ifbench_obstacle(kind, arguments)
    try:
        inspect.signature(KINDS[kind]).bind("", **arguments)
    except TypeError as exc:
        return f"its arguments do not fit: {exc}"
    return None


def follows(kind: str, answer: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether the answer follows an instruction that is not `unchecked`. An empty answer follows none."""
    if not answer.strip():
        return False
    return KINDS[kind](answer, **arguments) if kind in KINDS else _ifbench_follows(kind, answer, arguments)


def follows_loosely(kind: str, answer: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether one of the answer's `variants` follows the instruction."""
    return any(follows(kind, variant, arguments) for variant in variants(answer))


def variants(answer: str) -> Sequence[str]:
    """Return the answer as it is and without its first line, its last or both, each with asterisks and without."""
    lines = answer.split("\n")
    cuts = [answer, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cuts, *(cut.replace("*", "") for cut in cuts)]


def _compared(number: int, relation: str, threshold: int) -> bool:
    return number < threshold if relation == "less than" else number >= threshold


def _no_comma(answer: str) -> bool:
    return "," not in answer


def _has_keywords(answer: str, keywords: Sequence[str]) -> bool:
    return all(re.search(keyword, answer, re.IGNORECASE) for keyword in keywords)


def _has_keyword_often(answer: str, keyword: str, frequency: int, relation: str) -> bool:
    return _compared(len(re.findall(keyword.strip(), answer, re.IGNORECASE)), relation, frequency)


def _avoids(answer: str, forbidden_words: Sequence[str]) -> bool:
    return not any(re.search(rf"\b{word}\b", answer, re.IGNORECASE) for word in forbidden_words)


def _has_letter_often(answer: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compared(answer.lower().count(letter.strip().lower()), let_relation, let_frequency)


def _number_of_words(answer: str, num_words: int, relation: str) -> bool:
    return _compared(len(re.findall(r"\w+", answer)), relation, num_words)


def _number_of_paragraphs(answer: str, num_paragraphs: int) -> bool:
    """Paragraphs are divided by ***; a divider may also begin or end the answer."""
    return _whole_parts(re.split(r"\s?\*\*\*\s?", answer), num_paragraphs)


def _two_responses(answer: str) -> bool:
    parts = answer.split("******")
    said = {part.strip() for part in parts if part.strip()}
    return _whole_parts(parts, 2) and len(said) == 2


def _whole_parts(parts: Sequence[str], wanted: int) -> bool:
    """Return whether exactly `wanted` parts are not blank, and only the first or the last part is blank."""
    blank = [number for number, part in enumerate(parts) if not part.strip()]
    return len(parts) - len(blank) == wanted and set(blank) <= {0, len(parts) - 1}


def _first_word_of_paragraph(answer: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Blank lines divide paragraphs. Quotes before the word, and all from its first punctuation on, do not count."""
    paragraphs = answer.split("\n\n")
    filled = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if filled != num_paragraphs or nth_paragraph > filled or not paragraphs[nth_paragraph - 1].strip():
        return False
    word = paragraphs[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


def _bullets(answer: str, num_bullets: int) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", answer, re.MULTILINE)
    return len(stars) + len(re.findall(r"^\s*-.*$", answer, re.MULTILINE)) == num_bullets


def _highlights(answer: str, num_highlights: int) -> bool:
    """A highlight is *this* or **this**, on one line. The latter counts twice, as in the published checker."""
    single = [found.strip("*") for found in re.findall(r"\*[^\n\*]*\*", answer)]
    double = [found[2:-2] for found in re.findall(r"\*\*[^\n\*]*\*\*", answer)]
    return sum(bool(found.strip()) for found in (*single, *double)) >= num_highlights


def _sections(answer: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.split(rf"\s?{section_spliter.strip()}\s?\d+\s?", answer)) - 1 >= num_sections


def _placeholders(answer: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", answer)) >= num_placeholders


def _postscript(answer: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(known.get(marker, marker.lower()), answer.lower()))


def _title(answer: str) -> bool:
    return any(found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", answer))


def _one_of_the_options(answer: str) -> bool:
    return any(option in answer for option in _OPTIONS)


def _json(answer: str) -> bool:
    """The JSON may stand bare or in a fenced block."""
    bare = re.sub(r"\A```(json|Json|JSON)?|```\Z", "", answer.strip()).strip()
    try:
        json.loads(bare)
    except ValueError:
        return False
    return True


def _repeats(answer: str, prompt_to_repeat: str) -> bool:
    return answer.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _ends_with(answer: str, end_phrase: str) -> bool:
    return answer.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quoted(answer: str) -> bool:
    bare = answer.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


KINDS: Mapping[str, Checker] = {
    "punctuation:no_comma": _no_comma,
    "keywords:existence": _has_keywords,
    "keywords:frequency": _has_keyword_often,
    "keywords:forbidden_words": _avoids,
    "keywords:letter_frequency": _has_letter_often,
    "length_constraints:number_words": _number_of_words,
    "length_constraints:number_paragraphs": _number_of_paragraphs,
    "length_constraints:nth_paragraph_first_word": _first_word_of_paragraph,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:title": _title,
    "detectable_format:constrained_response": _one_of_the_options,
    "detectable_format:json_format": _json,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats,
    "startend:end_checker": _ends_with,
    "startend:quotation": _quoted,
}


class InstructedRow(BaseModel):
    """IFEval's schema: a prompt, the kinds of its instructions, and the arguments of each by name."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    prompt: str
    kinds: tuple[str, ...] = Field(validation_alias=AliasChoices("instruction_id_list"), min_length=1)
    arguments: tuple[Mapping[str, Any], ...] = Field(validation_alias=AliasChoices("kwargs"))
    key: str | int | None = None

    @field_validator("arguments")
    @classmethod
    def _given(cls, arguments: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
        return tuple(map(given_arguments, arguments))

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.kinds) != len(self.arguments):
            raise ValueError(f"{len(self.kinds)} instructions and kwargs for {len(self.arguments)}")
        return self

    def followed(self, answer: str, by: Rule) -> tuple[bool, ...]:
        """Return for each instruction whether the answer follows it; `by` is `follows` or `follows_loosely`."""
        return tuple(by(kind, answer, given) for kind, given in zip(self.kinds, self.arguments, strict=True))


class InstructionsCheckSettings(Section):
    """Instructions to follow, under the names of IFEval's columns."""

    kind: Literal["instructions"]
    instruction_id_list: tuple[str, ...] = Field(min_length=1)
    kwargs: tuple[Mapping[str, Any], ...]
    """The arguments of each instruction, by name."""
    loose: bool = False
    """An answer without its first or last line, or without asterisks, counts as well."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if len(self.instruction_id_list) != len(self.kwargs):
            raise ValueError(f"{len(self.instruction_id_list)} instructions and kwargs for {len(self.kwargs)}")
        if reasons := unchecked(self.instruction_id_list, self.row().arguments):
            raise ValueError(refusal(reasons))
        return self

    def row(self) -> InstructedRow:
        given = {"instruction_id_list": self.instruction_id_list, "kwargs": self.kwargs}
        return InstructedRow.model_validate({"prompt": "", **given})


class Instructions:
    def __init__(self, settings: InstructionsCheckSettings) -> None:
        self._row = settings.row()
        self._rule = follows_loosely if settings.loose else follows

    def passed(self, answer: str) -> bool:
        return all(self.followed(answer))

    def followed(self, answer: str) -> tuple[bool, ...]:
        """Return for each instruction whether the answer follows it."""
        return self._row.followed(answer, self._rule)
