"""What a program reads in a prompt. Training's checks of IFEval's kinds say what meets an instruction."""

import random
from collections.abc import Mapping

import pytest

from slhf.chats import ToolTurn
from slhf_server.models.base import Turn, request_of
from slhf_server.models.requirements.readers import requirements
from slhf_server.models.requirements.requirement import loses, meets, misses
from slhf_training.checks.instructions import follows, follows_loosely
from slhf_training.instructions.write import INSTRUCTIONS, REPEAT

REQUEST = "Write a short story about a cat."
WORDS = ["garden", "window", "mountain", "yellow"]
CASES = [
    (instruction.kind, phrase, dict(instruction.drawn(random.Random(seed), WORDS)))
    for instruction in INSTRUCTIONS
    for seed, phrase in enumerate(instruction.phrases)
]
NOT_READ = {"Mention {keywords[0]} as well as {keywords[1]}."}
"""A cat is mentioned where a "kitten" is, so this may be no word to look for."""
PLAIN = "Once there was a cat, who slept a lot. It lived by the river!\n\nThe end of it is near."


def texts(kind: str, given: Mapping[str, object]) -> list[str]:
    """Some that follow an instruction and some that do not, whatever its kind; its check tells which."""
    words = " and ".join(WORDS)
    bullets = [f"{n} cats:\n" + "\n".join(f"* Item {i}" for i in range(n)) for n in (2, 3, 4, 5, 6)]
    return [
        PLAIN,
        "A cat slept by the river",
        "A cat, who slept, woke up.",
        f"The {words}.",
        " ".join([words] * 12),
        f"{PLAIN}\n\nP.S. Bye.",
        f"{PLAIN}\n\nP.P.S. Bye.",
        '"All of it is quoted here."',
        '{"cat": ["sleeps"]}',
        '```json\n{"cat": 1}\n```',
        "<<A cat>>\nIt slept.",
        "First it slept.\n******\nThen it ran.",
        f"{REQUEST}\nA cat slept.",
        f"It slept. {given.get('end_phrase', 'Over.')}",
        *bullets,
        *("cat " * n for n in (15, 25, 35, 50, 90, 120, 300, 500)),
        *(" [name]" * n + " slept" for n in (1, 2, 3, 4, 5, 9)),
        *(" *so* it" * n + " slept" for n in (1, 2, 3, 4, 9)),
        *("\n***\n".join(["It slept."] * n) for n in (2, 3, 4, 5)),
        *(
            "\n".join(f"{heading} {i}\nIt slept." for i in range(1, n + 1))
            for n in (1, 2, 3, 4, 5)
            for heading in ("Section", "SECTION", "Part", "Chapter")
        ),
        *(f"{letter * n} is what it said" for n in (2, 5, 15) for letter in "bcdfgmpw"),
    ]


@pytest.mark.parametrize(("kind", "phrase", "given"), CASES, ids=[phrase for _, phrase, _ in CASES])
def test_what_is_read_in_a_phrase_agrees_with_the_check_of_its_kind(
    kind: str, phrase: str, given: dict[str, object]
) -> None:
    said = f"{REQUEST} {phrase.format(**given)}"
    found = requirements(said)
    if phrase in NOT_READ:
        assert found == ()
        return
    assert found, said
    arguments = given | ({"prompt_to_repeat": REQUEST} if kind == REPEAT else {})
    some = texts(kind, given)
    assert {follows(kind, text, arguments) for text in some} == {True, False}
    for text in some:
        if misses(found, text):
            assert not follows_loosely(kind, text, arguments), text
        if meets(found, text):
            assert follows(kind, text, arguments), text
    assert any(meets(found, text) for text in some)
    assert any(misses(found, text) for text in some)


@pytest.mark.parametrize(
    ("wish", "meeting", "missing"),
    [
        ("Do not use any commas.", "No.", "No, never."),
        ("In your entire response, refrain from using any commas.", "No.", "No, never."),
        ("Please answer without exclamation marks.", "No.", "No!"),
        ("Your entire response should be in English, and in all lowercase letters.", "a cat", "A cat"),
        ("No capital letters are allowed.", "a cat", "A cat"),
        ("Please use no semicolons.", "Yes, no.", "Yes; no."),
        ("Avoid question marks.", "Yes.", "Yes?"),
        ("Answer in all capital letters.", "A CAT!", "A cat!"),
        ("Make sure that words in all capital letters appear at least 2 times.", "A CAT AND A DOG", "A cat and a dog"),
        ("Your response should contain at least 3 sentences.", "One. Two. Three.", "One. Two."),
        ("Answer in exactly 2 sentences.", "One. Two.", "One. Two. Three. Four."),
        ("Write no more than two sentences.", "One. Two.", "One. Two. Three. Four."),
        ("Keep your answer between 2 and 4 words.", "one two three", "one two three four five"),
        ("Limit your answer to 3 words.", "one two three", "one two three four"),
        ("Keep your answer to 2 sentences.", "One.", "One. Two. Three. Four."),
        ("Write a 5+ word summary of the book.", "one two three four five", "one two"),
        ("Summarise the plot of Hamlet in at most 4 words.", "He dies in it.", "He dies in the end, too."),
        ("Write 2 paragraphs about cats.", "One.\n\nTwo.", "One.\n\nTwo.\n\nThree.\n\nFour.\n\nFive."),
        ("Include the keywords: sun, moon.", "The sun and the moon.", "The sun."),
        ("Include the word 'sun' in your answer.", "The sun.", "The moon."),
        ("Do not include the keywords cheap, best, and sale in the response.", "A sail.", "A good sale."),
        ("Answer without using the word “moon”.", "The sun.", "The moon."),
        ("The word bone should appear no more than 1 time.", "a bone", "bone bone bone"),
        ("The letter Z should appear at least 2 times.", "buzz", "Zebra"),
        ("Finish your response with this exact phrase: Any more questions?", "Yes. Any more questions?", "Yes."),
        ('End your answer with "Amen".', "So be it. Amen", "So be it."),
        ('Answer with one of the following options: "It is yes.", "It is no."', "It is no.", "Perhaps."),
        ("Wrap your entire response with double quotation marks.", '"Yes."', "Yes."),
        ("Entire output should be wrapped in JSON format.", '{"a": 1}', "Yes."),
        ("can you answer in json please", "[1, 2]", "one and two"),
    ],
)
def test_what_users_ask_for_is_read(wish: str, meeting: str, missing: str) -> None:
    found = requirements(f"Why do cats purr?\n\n{wish}")
    assert len(found) == 1
    assert meets(found, meeting)
    assert not misses(found, meeting)
    assert misses(found, missing)
    assert not meets(found, missing)


def test_a_prompt_may_ask_for_several_things_in_one_sentence_in_many_or_in_a_list() -> None:
    names = [one.name for one in requirements("Write a letter in all caps, use no commas, and end with “Yours”.")]
    assert sorted(names) == ["ending", "no_commas", "uppercase"]
    listed = "Write a letter to Jim. Follow these rules:\n- no commas\n- at least 100 words\n- End with 'Yours'"
    assert [one.name for one in requirements(listed)] == ["no_commas", "words", "ending"]


NOTHING = [
    "Write a function that removes commas from a string.",
    "Write a Python script that prints the answer. Do not use commas.",
    "Write a SQL query that returns at least 3 words.",
    "Write a regular expression that matches words in all lowercase letters.",
    "The essay below has no commas. What is wrong with it?",
    "Does this text contain at least 300 words?",
    "Explain why legal English uses no commas.",
    "Why should I never use exclamation marks in an email?",
    "My teacher says that the essay must have at least 300 words. Is that normal?",
    "She told me to use fewer than 20 words, no commas and no capital letters.",
    "People say an email should be in all lowercase letters.",
    "A good summary should contain at least 3 sentences. Do you agree?",
    "How do I write an essay of at least 500 words?",
    "Explain how to write an essay in 5 paragraphs.",
    'What does "do not use commas" mean?',
    'Classify the sentence "Write in all capital letters." as polite or rude.',
    "Translate to French: Do not use any commas.",
    "Translate the following sentence into German: Your answer should contain at least 3 sentences.",
    "Proofread this email:\nHi team. Do not use any capital letters. Keep it under 50 words.",
    "Rewrite this paragraph:\nAnswer in exactly 2 sentences. End with “Amen.”",
    "Rewrite this paragraph in plain words.\n\nAnswer in exactly 2 sentences.",
    "Here is my essay.\n\nIt must be at least 300 words long.",
    "Answer the question about the passage.\n\nPassage: Do not use commas. Use the words 'a' and 'b'.",
    "User: please answer in JSON\nAssistant: no\nWhat happened here?",
    "<rules>Use no commas.</rules> What do these rules say?",
    "```\nUse no commas.\n```\nWhat does it say?",
    'She said "use no commas and he left.',  # who knows where the quotation ends
    "Write about 300 words on climate change.",
    "Write a 300 word essay about cats.",
    "Write a story of roughly 200 words.",
    "Try to use fewer than 50 words.",
    "If you can, use no commas.",
    "Use at most 3 bullet points if possible.",
    "You don't have to write at least 100 words.",
    "Use no commas in the title.",
    "Each paragraph should have at least 3 sentences.",
    "Write a story with a title of at most 5 words.",
    "Explain JSON.",
    "Give me an example of a JSON schema.",
    "What is a postscript starting with P.S. for?",
    "I got a letter with a P.S. at the end.",
    "Include the word count.",
    "Include keywords for SEO.",
    "Use the keywords naturally.",
    "Use the words of wisdom in your speech.",
    "Don't mention politics.",
    "Mention cats as well as dogs.",
    "Write a poem about a man who does not use commas.",
    "Write a story about people who love lists and don't use commas.",
    "Write a poem about a poet who writes in all lowercase letters.",
    "Convert the title to all uppercase letters.",
    "End the story with a surprise.",
    "Give me the title of the book in quotation marks.",
    "Suggest a name in double quotes.",
    "Repeat after me: I am a robot.",
    "How many times does the letter e appear in “bee”?",
    "Which words contain the letter e at least three times?",
    "List the words that contain the letter q at least 2 times.",
    "In this game, players must use the words “yes” and “no”.",
    "There must be at least 5 bullet points of damage in the wall, says the sheriff.",
    "John writes 3 sentences per page. How many sentences are on 20 pages?",
    "A book has 300 words or more on each page. How many are on 10 pages?",
    "Give two answers that are different.",
    "Highlight at least 3 problems with this plan.",
    "Use the word processor.",
    "Include the term limits.",
    "End with the exact same words as the beginning.",
    "Write P.S. in full.",
    "Say the word exactly once, and then answer.",
    "Tell the story over 3 paragraphs.",
    "Which is better, a list of 3 bullet points or 2 paragraphs?",
    "Utilise au plus 50 mots et aucune virgule.",
]


@pytest.mark.parametrize("prompt", NOTHING)
def test_what_can_mean_something_else_is_not_read(prompt: str) -> None:
    assert requirements(prompt) == ()


def test_after_a_quotation_to_work_on_the_prompt_asks_again() -> None:
    found = requirements('Rewrite this sentence: "The cat sat, and slept; at least 300 words." Do not use any commas.')
    assert [one.name for one in found] == ["no_commas"]


def test_the_last_user_turn_is_what_is_read_without_a_tools_result() -> None:
    asks = Turn("user", "Use no commas.")
    assert request_of([Turn("user", "Answer in JSON."), Turn("assistant", "{}"), asks]) == asks.text
    assert request_of([asks, Turn("assistant", "No."), Turn("user", "Why?")]) == "Why?"
    result = ToolTurn("tool", "Use no commas.", {})
    assert request_of([Turn("user", "Result of look:\nUse no commas.", tool_turns=(result,))]) == ""
    assert request_of([Turn("system", "Use no commas.")]) == ""


def test_a_text_between_definitions_neither_meets_nor_misses() -> None:
    """Is "it's" a word or two, and is the line that introduces an answer a part of it?"""
    (found,) = requirements("Answer in at least 4 words.")
    assert not found.met("it's a cat")
    assert not found.missed("it's a cat")
    (commas,) = requirements("Use no commas.")
    assert not commas.met("Sure, here it is:\nIt slept.")
    assert not commas.missed("Sure, here it is:\nIt slept.")


def test_of_a_long_prompt_nothing_is_read_and_of_a_long_text_nothing_is_said() -> None:
    """They would hold others up, and a long prompt is mostly a text to work on."""
    wish = "Use no commas."
    assert requirements(f"{wish} {'a' * (10_000 - len(wish) - 1)}")
    assert requirements(f"{wish} {'a' * (10_000 - len(wish))}") == ()
    (found,) = requirements(wish)
    assert found.missed("a," * 10_000)
    assert not found.missed("a," * 10_001)
    assert not found.met("a" * 20_001)


def test_a_text_loses_what_the_one_before_it_met() -> None:
    found = requirements("Use no commas. Answer in JSON.")
    assert loses(found, "No.", "No, never.")
    assert not loses(found, "No, never.", "No.")
    assert not loses(found, "No, never.", "Never, ever.")


HOSTILE = {
    "words": "a ",
    "a word": "a",
    "full stops": ".",
    "full stops and letters": ".a",
    "line breaks": "\n",
    "quotation marks": '"',
    "single ones": " 'a",
    "fences": "```\n",
    "tags": "<a>",
    "asterisks": "*",
    "brackets": "[",
    "commas": "a, ",
    "wishes": "Do not use the word moon. ",
    "long wishes": "do not use at least between 1 and 3 ",
    "verbs": "rewrite edit make a ",
    "lists": "include the words a, ",
    "blanks": " ",
    "nothing": "\0",
}


@pytest.mark.parametrize("length", [800, 20_000, 1 << 20])
@pytest.mark.parametrize("repeated", HOSTILE.values(), ids=HOSTILE)
def test_no_prompt_and_no_text_takes_long(repeated: str, length: int) -> None:
    """The runner's limit of time ends what backtracks; tests/server/test_event_loop.py measures it in a server."""
    text = (repeated * (length // len(repeated) + 1))[:length]
    found = requirements(text)
    assert len(found) <= 16
    for one in (*found, *requirements(f"{REQUEST} " + " ".join(phrase.format(**given) for _, phrase, given in CASES))):
        one.met(text)
        one.missed(text)
