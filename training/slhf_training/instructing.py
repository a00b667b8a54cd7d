"""Prompts with instructions that a program can check: what `slhf-train instruct` writes, in IFEval's schema.

IFEval's prompts evaluate. These are other prompts with instructions of its kinds, in other words, so that the
preference source `instructions` has something to check during training.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from slhf_training.examples import Example

Drawn = tuple[str, Mapping[str, Any]]
"""An instruction as a user says it, and the arguments of its check."""
Draw = Callable[[random.Random, Sequence[str]], Drawn]
"""The words are some that suit the prompt."""

ENDINGS = ("That is all.", "I hope this helps.", "Ask me if anything is unclear.")
WORD = re.compile(r"[a-z]{5,}")
FEWEST_WORDS = 4
"""Of a reference; with fewer, no instruction is about words."""


def instruct(examples: Iterable[Example], seed: int = 0) -> Iterator[dict[str, Any]]:
    """A row for each single-turn example: its prompt with one or two instructions, the same for the same seed."""
    for example in examples:
        if len(example.chat) != 1:
            continue
        text = example.chat[0]["content"]
        rng = random.Random(f"{seed}:{text}")
        words = sorted(set(WORD.findall(example.best.lower())))
        kinds = [kind for kind in DRAWS if len(words) >= FEWEST_WORDS or not kind.startswith("keywords:")]
        chosen = rng.sample(kinds, rng.choice((1, 1, 2)))
        drawn = [DRAWS[kind](rng, words) for kind in chosen]
        yield {
            "key": example.id,
            "prompt": f"{text}{rng.choice((' ', chr(10)))}{' '.join(said for said, _ in drawn)}",
            "instruction_id_list": chosen,
            "kwargs": [dict(arguments) for _, arguments in drawn],
        }


def _no_comma(rng: random.Random, words: Sequence[str]) -> Drawn:
    return rng.choice(("Write it without a single comma.", "There must be no comma in what you write.")), {}


def _keywords(rng: random.Random, words: Sequence[str]) -> Drawn:
    one, two = rng.sample(words, 2)
    return f'Make use of the words "{one}" and "{two}".', {"keywords": [one, two]}


def _often(rng: random.Random, words: Sequence[str]) -> Drawn:
    word, times = rng.choice(words), rng.randint(2, 3)
    return (
        f'The word "{word}" has to occur {times} times or more.',
        {"keyword": word, "frequency": times, "relation": "at least"},
    )


def _forbidden(rng: random.Random, words: Sequence[str]) -> Drawn:
    one, two = rng.sample(words, 2)
    return f'Avoid the words "{one}" and "{two}".', {"forbidden_words": [one, two]}


def _few_or_many_words(rng: random.Random, words: Sequence[str]) -> Drawn:
    if rng.random() < 0.5:
        most = rng.choice((20, 40, 60))
        return f"Stay below {most} words.", {"num_words": most, "relation": "less than"}
    least = rng.choice((40, 60, 80))
    return f"Write no fewer than {least} words.", {"num_words": least, "relation": "at least"}


def _paragraphs(rng: random.Random, words: Sequence[str]) -> Drawn:
    number = rng.randint(2, 3)
    return f"Write {number} paragraphs and put a line with *** between them.", {"num_paragraphs": number}


def _placeholders(rng: random.Random, words: Sequence[str]) -> Drawn:
    number = rng.randint(1, 3)
    return f"Leave {number} or more gaps to fill in, in square brackets like [name].", {"num_placeholders": number}


def _postscript(rng: random.Random, words: Sequence[str]) -> Drawn:
    marker = rng.choice(("P.S.", "P.P.S"))
    return f"Close with a postscript that begins with {marker}", {"postscript_marker": marker}


def _bullets(rng: random.Random, words: Sequence[str]) -> Drawn:
    number = rng.randint(2, 5)
    return f'Give exactly {number} bullet points, each on a line that starts with "* ".', {"num_bullets": number}


def _highlights(rng: random.Random, words: Sequence[str]) -> Drawn:
    number = rng.randint(1, 3)
    return f"Put {number} or more important phrases between asterisks, *like these*.", {"num_highlights": number}


def _sections(rng: random.Random, words: Sequence[str]) -> Drawn:
    name, number = rng.choice(("Section", "Part")), rng.randint(2, 3)
    return (
        f'Organise the answer into {number} parts with the headings "{name} 1", "{name} 2" and so on.',
        {"section_spliter": name, "num_sections": number},
    )


def _title(rng: random.Random, words: Sequence[str]) -> Drawn:
    return "Put a title over it, between << and >>.", {}


def _json(rng: random.Random, words: Sequence[str]) -> Drawn:
    return "Reply with valid JSON and nothing else.", {}


def _two_responses(rng: random.Random, words: Sequence[str]) -> Drawn:
    return "Write two answers that differ, with ****** between them.", {}


def _ending(rng: random.Random, words: Sequence[str]) -> Drawn:
    phrase = rng.choice(ENDINGS)
    return f'Your last sentence has to be: "{phrase}"', {"end_phrase": phrase}


def _quotation(rng: random.Random, words: Sequence[str]) -> Drawn:
    return "Enclose the whole answer in double quotes.", {}


DRAWS: Mapping[str, Draw] = {
    "punctuation:no_comma": _no_comma,
    "keywords:existence": _keywords,
    "keywords:frequency": _often,
    "keywords:forbidden_words": _forbidden,
    "length_constraints:number_words": _few_or_many_words,
    "length_constraints:number_paragraphs": _paragraphs,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:title": _title,
    "detectable_format:json_format": _json,
    "combination:two_responses": _two_responses,
    "startend:end_checker": _ending,
    "startend:quotation": _quotation,
}
