"""Answers that are made to follow instructions, where a program can do it and leave what is said as it is.

What cannot be done so stays: more words than there are, a word used often enough, a yes or no. The shape is the
program's, and the words are the answer's, so a model can learn it by copying.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence

from slhf_training.checks.instructions import InstructedRow, follows

Repair = Callable[..., str]
"""Of an answer, with the instruction's own arguments by name."""

GAPS = ("[name]", "[date]", "[place]", "[address]", "[email]", "[phone]", "[number]", "[city]", "[time]", "[title]")
_SENTENCE = re.compile(r"(?<=[.!?])(?<!\b\d\.)(?<!\b\d\d\.)\s+")  # not after the number of a list's item
_LAST_END = re.compile(r"(?s).*[.!?][\"')*]*(?=\s|\Z)")
_MARK = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")


def repaired(row: InstructedRow, answer: str) -> str:
    """The answer, changed where that makes it follow more of the row's instructions."""
    asked = dict(zip(row.kinds, row.arguments, strict=True))
    for kind, repair in REPAIRS.items():
        if kind in asked:
            changed = repair(answer, **asked[kind])
            if sum(row.followed(changed, follows)) > sum(row.followed(answer, follows)):
                answer = changed
    return answer


def finished(answer: str) -> str:
    """Without the sentence that was cut at its end, if there is another."""
    found = _LAST_END.match(answer)
    return found[0] if found else answer


def _sentences(answer: str) -> list[str]:
    return [sentence for sentence in _SENTENCE.split(answer.strip()) if sentence]


def _parts(answer: str, number: int) -> Sequence[str]:
    """As many parts of about the same size, by lines if there are enough, else by sentences. Empty: there are fewer."""
    lines = [line.strip() for line in answer.split("\n") if line.strip()]
    pieces, glue = (lines, "\n") if len(lines) >= number else (_sentences(answer), " ")
    if len(pieces) < number:
        return ()
    ends = [round(len(pieces) * part / number) for part in range(number + 1)]
    return [glue.join(pieces[first:end]) for first, end in zip(ends, ends[1:], strict=False)]


def _undivided(answer: str) -> str:
    return re.sub(r"\s*\*{3,}\s*", "\n\n", answer).strip()


def _no_comma(answer: str) -> str:
    return re.sub(r"(?<=\d),(?=\d)|,(?=\s|\Z)", "", answer).replace(",", " ")


def _keywords(answer: str, keywords: Sequence[str]) -> str:
    missing = [word for word in keywords if not re.search(word, answer, re.IGNORECASE)]
    return f"{answer}\n\nKeywords: {'; '.join(missing)}"


def _forbidden(answer: str, forbidden_words: Sequence[str]) -> str:
    """Without the sentences that hold them; where nothing would be left, without the words."""
    any_of = re.compile(rf"\b(?:{'|'.join(map(re.escape, forbidden_words))})\b", re.IGNORECASE)
    lines = [" ".join(s for s in _sentences(line) if not any_of.search(s)) for line in answer.split("\n")]
    kept = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return kept or re.sub(r" {2,}", " ", any_of.sub("", answer)).strip()


def _few_words(answer: str, num_words: int, relation: str) -> str:
    """The first sentences, or words where the first one is too long."""
    if relation != "less than":
        return answer
    kept, sentences = "", _sentences(answer)
    for sentence in sentences:
        longer = f"{kept} {sentence}".strip()
        if len(re.findall(r"\w+", longer)) >= num_words:
            break
        kept = longer
    if kept:
        return kept
    ends = [word.end() for word in re.finditer(r"\w+", answer)]
    return f"{answer[: ends[: num_words - 1][-1]]}." if num_words > 1 and ends else answer


def _paragraphs(answer: str, num_paragraphs: int) -> str:
    return "\n\n***\n\n".join(_parts(_undivided(answer), num_paragraphs)) or answer


def _placeholders(answer: str, num_placeholders: int) -> str:
    missing = num_placeholders - len(re.findall(r"\[.*?\]", answer))
    return f"{answer}\n\nTo fill in: {' '.join(GAPS[:missing])}"


def _postscript(answer: str, postscript_marker: str) -> str:
    return f"{answer}\n\n{postscript_marker} I hope that this is what you asked for."


def _bullets(answer: str, num_bullets: int) -> str:
    lines = [_MARK.sub("", line) for line in answer.split("\n")]
    parts = _parts("\n".join(lines), num_bullets)
    return "\n".join(f"* {part}".replace("\n", " ") for part in parts) or answer


def _highlights(answer: str, num_highlights: int) -> str:
    """The first words of the first sentences."""
    sentences = _sentences(answer.replace("*", ""))
    for place, sentence in enumerate(sentences[:num_highlights]):
        sentences[place] = re.sub(r"\A((?:\d+[.)]|#+|-)\s+)?(\w\S*(?: [^\W\d]+){0,2})", r"\1*\2*", sentence)
    return " ".join(sentences)


def _sections(answer: str, section_spliter: str, num_sections: int) -> str:
    parts = _parts(answer, num_sections)
    return "\n\n".join(f"{section_spliter} {number}\n{part}" for number, part in enumerate(parts, 1)) or answer


def _title(answer: str) -> str:
    words = re.findall(r"[\w'-]+", "".join(_sentences(answer)[:1]))[:6]
    return f"<<{' '.join(words)}>>\n\n{answer}"


def _two_responses(answer: str) -> str:
    plain = _undivided(answer)
    return f"{plain}\n\n******\n\nIn short: {''.join(_sentences(plain)[:1])}"


def _ending(answer: str, end_phrase: str) -> str:
    return f"{answer}\n\n{end_phrase}"


def _repeat(answer: str, prompt_to_repeat: str) -> str:
    return f"{prompt_to_repeat}\n\n{answer}"


def _quotation(answer: str) -> str:
    return '"{}"'.format(answer.strip().replace('"', "'"))


def _json(answer: str) -> str:
    return json.dumps({"answer": answer}, ensure_ascii=False)


REPAIRS: Mapping[str, Repair] = {
    "keywords:forbidden_words": _forbidden,
    "length_constraints:number_words": _few_words,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:multiple_sections": _sections,
    "length_constraints:number_paragraphs": _paragraphs,
    "detectable_format:number_highlighted_sections": _highlights,
    "keywords:existence": _keywords,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "detectable_content:postscript": _postscript,
    "punctuation:no_comma": _no_comma,
    "combination:repeat_prompt": _repeat,
    "startend:end_checker": _ending,
    "startend:quotation": _quotation,
    "detectable_format:json_format": _json,
}
"""In the order in which they are made: what frames the whole comes last."""
