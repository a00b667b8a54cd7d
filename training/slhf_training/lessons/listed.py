"""What a Follower thinks of a text with instructions: each of them, and whether the draft follows it."""

from collections.abc import Sequence

from slhf.readings import STAYS
from slhf_training.checks.instructions import Instructions, InstructionsCheckSettings
from slhf_training.lessons.thoughts import CHANGES, Considered


def listed(draft: str, own: Sequence[str], check: InstructionsCheckSettings) -> Considered:
    """Return thoughts with a line for each instruction: its kind and arguments in words, and whether the draft follows.

    A draft that follows all stays; one that does not has no answer yet.
    """
    names = [
        " ".join([kind.partition(":")[2].replace("_", " "), *(f"({value})" for value in map(_said, given.values()))])
        for kind, given in zip(check.row().kinds, check.row().arguments, strict=True)
    ]
    followed = Instructions(check).followed(draft)
    stays = all(followed)
    lines = [f"{name}: {'yes' if is_so else 'no'}" for name, is_so in zip(names, followed, strict=True)]
    thoughts = "\n".join([*lines, STAYS if stays else CHANGES])
    return Considered(thoughts, draft if stays else None, own=tuple(own))


def _said(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else " ".join(str(value).split())
