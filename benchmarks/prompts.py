"""Prompts of a wanted length that no data set has to be fetched for."""

import random
from typing import Any

SENTENCES = (
    "The river rises in the hills and flows slowly towards the sea.",
    "Last year the town built a new bridge for people on foot.",
    "Many visitors come in spring to see the old mill and the gardens.",
    "The teacher asked the children to write about their favourite animal.",
    "A small company makes furniture from wood that others throw away.",
    "The train to the coast leaves every hour until late in the evening.",
    "Doctors say that a short walk after lunch is good for the heart.",
    "The library opens at nine and closes when the last reader leaves.",
    "Farmers in the valley grow apples, pears and a little wine.",
    "The museum shows letters that soldiers wrote to their families.",
)
TASKS = (
    "Name three things that help against a headache.",
    "Explain why the sky is blue to a child of six.",
    "Give advice to somebody who learns to cook.",
    "Describe a good morning routine in four steps.",
    "Write a short note that invites a friend to dinner.",
    "List the pros and cons of working from home.",
    "Explain what a library does for a small town.",
    "Tell how to keep a bicycle in good order.",
)


def prompts(count: int, tokens: int, seed: int, tokenizer: Any) -> list[str]:
    """Different texts of about this many tokens: sentences in random order, then a task."""
    rng = random.Random(seed)
    texts = []
    for number in range(count):
        text = f"Note {rng.randrange(10**6)}."
        task = f" {TASKS[number % len(TASKS)]}"
        while len(tokenizer.encode(text + task)) < tokens:
            text += f" {rng.choice(SENTENCES)}"
        texts.append(text + task)
    return texts
