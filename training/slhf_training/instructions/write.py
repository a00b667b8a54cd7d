"""Prompts with instructions that a program can check: what `slhf-train add-instructions` writes, in IFEval's schema.

IFEval's prompts evaluate. These are other prompts with instructions of its kinds, in other words, so that the
preference source `instructions` has something to check during training.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slhf_training.data import Example

Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Instruction:
    kind: str
    phrases: tuple[str, ...]
    """How users say it, with the arguments by name: format strings."""
    drawn: Callable[[random.Random, Sequence[str]], Arguments] = lambda rng, words: {}
    """The arguments of its check. The words are some that suit the prompt."""


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
"""Of a reference; with fewer, no instruction is about words."""
REPEAT = "combination:repeat_prompt"


def instruct(examples: Iterable[Example], seed: int = 0) -> Iterator[dict[str, Any]]:
    """A row for each single-turn example: its prompt with one to three instructions, the same for the same seed.

    What is known as a good answer to the prompt alone stays with it as its `response`: a draft to refine.
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


def _two(name: str) -> Callable[[random.Random, Sequence[str]], Arguments]:
    return lambda rng, words: {name: rng.sample(words, 2)}


def _often(rng: random.Random, words: Sequence[str]) -> Arguments:
    return {"keyword": rng.choice(words), "frequency": rng.randint(2, 3), "relation": "at least"}


def _letter(rng: random.Random, words: Sequence[str]) -> Arguments:
    return {"letter": rng.choice("bcdfgmpw"), "let_frequency": rng.randint(3, 12), "let_relation": "at least"}


def _number(name: str, least: int, most: int) -> Callable[[random.Random, Sequence[str]], Arguments]:
    return lambda rng, words: {name: rng.randint(least, most)}


def _words(relation: str, *numbers: int) -> Callable[[random.Random, Sequence[str]], Arguments]:
    return lambda rng, words: {"num_words": rng.choice(numbers), "relation": relation}


def _sections(rng: random.Random, words: Sequence[str]) -> Arguments:
    return {"section_spliter": rng.choice(("Section", "Part", "SECTION", "Chapter")), "num_sections": rng.randint(2, 4)}


INSTRUCTIONS: Sequence[Instruction] = (
    Instruction(
        "punctuation:no_comma",
        (
            "Write it without a single comma.",
            "There must be no comma in what you write.",
            "Commas are forbidden.",
            "Please don't use commas.",
            "Leave out all commas, in the whole reply.",
            "It should be free of commas.",
        ),
    ),
    Instruction(
        "keywords:existence",
        (
            'Make use of the words "{keywords[0]}" and "{keywords[1]}".',
            "Your text should contain these words: {keywords[0]}, {keywords[1]}.",
            "Mention {keywords[0]} as well as {keywords[1]}.",
            "Work in the keywords {keywords[0]} and {keywords[1]}.",
        ),
        _two("keywords"),
    ),
    Instruction(
        "keywords:frequency",
        (
            'The word "{keyword}" has to occur {frequency} times or more.',
            "Say {keyword} at least {frequency} times.",
            "Use the term '{keyword}' no fewer than {frequency} times in your text.",
        ),
        _often,
    ),
    Instruction(
        "keywords:forbidden_words",
        (
            'Avoid the words "{forbidden_words[0]}" and "{forbidden_words[1]}".',
            "Neither {forbidden_words[0]} nor {forbidden_words[1]} may occur in your answer.",
            "Do without the words {forbidden_words[0]} and {forbidden_words[1]}.",
            "Don't mention '{forbidden_words[0]}' or '{forbidden_words[1]}'.",
        ),
        _two("forbidden_words"),
    ),
    Instruction(
        "keywords:letter_frequency",
        (
            "Use the letter {letter} at least {let_frequency} times.",
            'I want to see the letter "{letter}" {let_frequency} times or more.',
        ),
        _letter,
    ),
    Instruction(
        "length_constraints:number_words",
        (
            "Stay below {num_words} words.",
            "Keep it under {num_words} words.",
            "Use fewer than {num_words} words.",
            "It must be shorter than {num_words} words.",
        ),
        _words("less than", 20, 30, 40, 60, 100),
    ),
    Instruction(
        "length_constraints:number_words",
        (
            "Write no fewer than {num_words} words.",
            "I need {num_words} words or more.",
            "It has to be at least {num_words} words long.",
            "Answer in {num_words}+ words.",
        ),
        _words("at least", 40, 60, 80, 150, 250, 400),
    ),
    Instruction(
        "length_constraints:number_paragraphs",
        (
            "Write {num_paragraphs} paragraphs and put a line with *** between them.",
            "I want {num_paragraphs} paragraphs, separated by three asterisks: ***",
            "Split your text into {num_paragraphs} paragraphs; mark each break with ***.",
        ),
        _number("num_paragraphs", 2, 5),
    ),
    Instruction(
        "detectable_content:number_placeholders",
        (
            "Leave {num_placeholders} or more gaps to fill in, in square brackets like [name].",
            "Put in at least {num_placeholders} placeholders, such as [date].",
            "There should be {num_placeholders} or more bracketed placeholders, for example [city], to replace.",
        ),
        _number("num_placeholders", 1, 5),
    ),
    Instruction(
        "detectable_content:postscript",
        (
            "Close with a postscript that begins with {postscript_marker}",
            "Add a postscript at the bottom, starting with {postscript_marker}",
            "After the answer I want a line that starts with {postscript_marker}",
            "Do not forget a {postscript_marker} at the end.",
        ),
        lambda rng, words: {"postscript_marker": rng.choice(MARKERS)},
    ),
    Instruction(
        "detectable_format:number_bullet_lists",
        (
            'Give exactly {num_bullets} bullet points, each on a line that starts with "* ".',
            "Use markdown bullets, {num_bullets} of them, as in: * This is one.",
            "I want a list of exactly {num_bullets} bullets (with asterisks in front).",
            "Put it into {num_bullets} bullet points like\n* first\n* second",
        ),
        _number("num_bullets", 2, 6),
    ),
    Instruction(
        "detectable_format:number_highlighted_sections",
        (
            "Put {num_highlights} or more important phrases between asterisks, *like these*.",
            "Emphasise at least {num_highlights} passages in markdown, i.e. *so*.",
            "Mark {num_highlights} or more parts of your text in italics with *asterisks*.",
        ),
        _number("num_highlights", 1, 4),
    ),
    Instruction(
        "detectable_format:multiple_sections",
        (
            "Organise the answer into {num_sections} parts with the headings"
            ' "{section_spliter} 1", "{section_spliter} 2" and so on.',
            "There shall be {num_sections} sections. Begin each with {section_spliter} X, where X is its number.",
            "Structure it as {section_spliter} 1 to {section_spliter} {num_sections}.",
        ),
        _sections,
    ),
    Instruction(
        "detectable_format:title",
        (
            "Put a title over it, between << and >>.",
            "It needs a title in double angle brackets, like <<my title>>.",
            "Give it a heading that is wrapped as <<this>>.",
            "Begin with a title, written <<so>>.",
        ),
    ),
    Instruction(
        "detectable_format:json_format",
        (
            "Reply with valid JSON and nothing else.",
            "The whole reply has to be JSON.",
            "Format everything as a JSON object.",
            "I want JSON back, in a markdown code block or without.",
        ),
    ),
    Instruction(
        "combination:two_responses",
        (
            "Write two answers that differ, with ****** between them.",
            "I would like two alternatives, parted by six asterisks: ******",
            "Answer twice, in different ways, and put ****** between the two and nowhere else.",
        ),
    ),
    Instruction(
        REPEAT,
        (
            "Before you answer, say this request once more, word for word.",
            "Start by copying my question exactly; the answer comes after it.",
            "Repeat what is asked, unchanged, and only then answer. (Not this sentence.)",
        ),
    ),
    Instruction(
        "startend:end_checker",
        (
            'Your last sentence has to be: "{end_phrase}"',
            "The very last words must be: {end_phrase}",
            "End with this exact sentence and add nothing: {end_phrase}",
            'Finish by saying "{end_phrase}" and stop there.',
        ),
        lambda rng, words: {"end_phrase": rng.choice(ENDINGS)},
    ),
    Instruction(
        "startend:quotation",
        (
            "Enclose the whole answer in double quotes.",
            "Put quotation marks around everything that you write.",
            'All of it should stand between " and ".',
            "Start and end your reply with a double quotation mark.",
        ),
    ),
)
