"""Answers in the files that other benchmarks' own programs read."""

from collections.abc import Iterable
from pathlib import Path

from slhf_training.evaluation.answers import Answers, Slot
from slhf_training.evaluation.chains import Chain, file_name
from slhf_training.evaluation.prompts import Prompt


def single_turns(chain: Chain, prompts: Iterable[Prompt], answers: Answers) -> list[tuple[str, str]]:
    """Question and answer of chats of one turn, which is what these formats can hold; a missing answer is empty."""
    single = [prompt for prompt in prompts if len(prompt.chat) == 1]
    texts = answers.texts(Slot(chain, prompt.id) for prompt in single)
    return [(prompt.chat[0]["content"], text or "") for prompt, text in zip(single, texts, strict=True)]


def write_export(folder: Path, chain: Chain, name: str, content: str) -> None:
    """folder/PLAYER/name."""
    path = folder / file_name(chain) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8", errors="replace")
