"""All that can be read in a prompt. A further kind is a function that reads it in a sentence, and a line here."""

from collections.abc import Callable, Sequence
from itertools import islice

from slhf_server.models.requirements import lengths, shapes, wording
from slhf_server.models.requirements.asked import Asked, Sentence
from slhf_server.models.requirements.requirement import Requirement

Reader = Callable[[Sentence, Asked], Requirement | None]
READERS: Sequence[Reader] = (
    lengths.words,
    lengths.sentences,
    lengths.paragraphs,
    lengths.bullet_points,
    lengths.placeholders,
    lengths.highlights,
    lengths.sections,
    wording.punctuation,
    wording.lowercase,
    wording.uppercase,
    wording.keywords,
    wording.forbidden_words,
    wording.letter_frequency,
    wording.word_frequency,
    wording.capital_words,
    shapes.json,
    shapes.quoted,
    shapes.title,
    shapes.postscript,
    shapes.ending,
    shapes.repeated_request,
    shapes.two_answers,
    shapes.options,
)
_MOST = 16
"""Requirements of a prompt that are looked at; what a longer list asks for is seen in part."""


def requirements(prompt: str) -> tuple[Requirement, ...]:
    """What a prompt asks for, as far as it is sure; most prompts ask for nothing that a program can check.

    It takes a bounded time, whatever the prompt.
    """
    asked = Asked.of(prompt)
    found = (read(sentence, asked) for sentence in asked.sentences for read in READERS)
    return tuple(islice((one for one in found if one is not None), _MOST))
