"""The Follower's prompt: conversation, draft, and the turn that asks for a better answer.

Source: SLHF (arXiv 2512.16626), section on StackelbergGDA for language models: one chat model plays both roles, only
the prompt differs. Training and serving must use the very same words, so they are written once, here.
"""

from collections.abc import Sequence

FOLLOWER_TURN = "Improve the previous answer. Phrase it as if it was the original response."
"""The user turn that follows the draft, as in the paper."""
OPEN_THOUGHT, CLOSE_THOUGHT = "<think>", "</think>"
"""What opens and closes a reasoning model's thoughts, which stand before its answer."""
_OWN = "Other answers to the same request:"


def follower_turn(turn: str = FOLLOWER_TURN, instruction: str | None = None) -> str:
    """The Follower's turn with a user's extra wish, if any, on a line of its own."""
    return f"{turn}\n{instruction}" if instruction else turn


def with_own_answers(turn: str, answers: Sequence[str]) -> str:
    """The Follower's turn with answers that it wrote before it saw the draft, numbered from 1; none: the turn."""
    numbered = (f"[{number}]\n{answer}" for number, answer in enumerate(answers, start=1))
    return "\n\n".join([turn, _OWN, *numbered]) if answers else turn
