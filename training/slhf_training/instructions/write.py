"""Writes prompts with instructions that a program can check, in IFEval's schema (`slhf-train add-instructions`).

IFEval's own prompts are for evaluation. These are other prompts with instructions of the same kinds in other words, so
that the preference source `instructions` has something to check during training.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from slhf_training.data import Example

Arguments = Mapping[str, Any]
Draw = Callable[[random.Random, Sequence[str]], Arguments]
"""Draws the arguments of a check, given some words that suit the prompt."""


@dataclass(frozen=True, slots=True)
class Instruction:
    kind: str
    phrases: tuple[str, ...]
    """Format strings in which users would ask for it, with the arguments by name."""
    drawn: Draw


ENDINGS = (
    "That is all.",
    "I hope this helps.",
    "Ask me if anything is unclear.",
    "Is there more that you want to know?",
    "Thank you for reading.",
)
MARKERS = ("P.S.", "P.P.S")
WORD = re.compile(r"[a-z]{5,}")
FEWEST_WORDS = 4
"""With fewer different words in its reference, a prompt gets no instruction about words."""
REPEAT = "combination:repeat_prompt"


def instruct(examples: Iterable[Example], seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield a row for each single-turn example: its prompt with one to three instructions, the same for the same seed.

    A good answer to the bare prompt, where one is known, stays with it as its `response`, which is a draft to refine.
    """
    kinds = sorted({instruction.kind for instruction in INSTRUCTIONS})
    for example in examples:
        if len(example.chat) != 1:
            continue
        text = example.chat[0]["content"]
        rng = random.Random(f"{seed}:{text}")
        words = sorted(set(WORD.findall(example.best.lower())))
        possible = [kind for kind in kinds if len(words) >= FEWEST_WORDS or not kind.startswith("keywords:")]
        chosen = [_of_kind(rng, kind) for kind in rng.sample(possible, rng.choice((1, 1, 1, 2, 2, 3)))]
        arguments = [dict(instruction.drawn(rng, words)) for instruction in chosen]
        for instruction, given in zip(chosen, arguments, strict=True):
            if instruction.kind == REPEAT:
                given["prompt_to_repeat"] = text
        said = " ".join(
            rng.choice(instruction.phrases).format(**given)
            for instruction, given in zip(chosen, arguments, strict=True)
        )
        row = {
            "key": example.id,
            "prompt": rng.choice((f"{text} {said}", f"{text}\n{said}", f"{text}\n\n{said}", f"{said}\n\n{text}")),
            "instruction_id_list": [instruction.kind for instruction in chosen],
            "kwargs": arguments,
        }
        yield row | ({"response": example.best} if example.best else {})


def _of_kind(rng: random.Random, kind: str) -> Instruction:
    return rng.choice([instruction for instruction in INSTRUCTIONS if instruction.kind == kind])


def _nothing(rng: random.Random, words: Sequence[str]) -> Arguments:
    return {}


def _two(name: str) -> Draw:
    return lambda rng, words: {name: rng.sample(words, 2)}


def _often(rng: random.Random, words: Sequence[str]) -> Arguments:
    return {"keyword": rng.choice(words), "frequency": rng.randint(2, 3), "relation": "at least"}


def _letter(rng: random.Random, words: Sequence[str]) -> Arguments:
    return {"letter": rng.choice("bcdfgmpw"), "let_frequency": rng.randint(3, 12), "let_relation": "at least"}


def _number(name: str, least: int, most: int) -> Draw:
    return lambda rng, words: {name: rng.randint(least, most)}


def _words(relation: str, *numbers: int) -> Draw:
    return lambda rng, words: {"num_words": rng.choice(numbers), "relation": relation}


def _sections(rng: random.Random, words: Sequence[str]) -> Arguments:
    return {"section_spliter": rng.choice(("Section", "Part", "SECTION", "Chapter")), "num_sections": rng.randint(2, 4)}


DRAWN: Mapping[str, Draw] = {
    "existence": _two("keywords"),
    "frequency": _often,
    "forbidden_words": _two("forbidden_words"),
    "letter_frequency": _letter,
    "fewer_words": _words("less than", 20, 30, 40, 60, 100),
    "more_words": _words("at least", 40, 60, 80, 150, 250, 400),
    "number_paragraphs": _number("num_paragraphs", 2, 5),
    "number_placeholders": _number("num_placeholders", 1, 5),
    "postscript": lambda rng, words: {"postscript_marker": rng.choice(MARKERS)},
    "number_bullet_lists": _number("num_bullets", 2, 6),
    "number_highlighted_sections": _number("num_highlights", 1, 4),
    "multiple_sections": _sections,
    "end_checker": lambda rng, words: {"end_phrase": rng.choice(ENDINGS)},
}
"""How the arguments of a check are drawn, by the name that phrases.yaml has for that."""


def _instructions() -> Iterator[Instruction]:
    for row in yaml.safe_load(Path(__file__).with_name("phrases.yaml").read_text(encoding="utf-8")):
        yield Instruction(row["kind"], tuple(row["phrases"]), DRAWN[row["drawn"]] if "drawn" in row else _nothing)


INSTRUCTIONS: Sequence[Instruction] = tuple(_instructions())
