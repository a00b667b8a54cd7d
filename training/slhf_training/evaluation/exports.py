"""Answers in the files that other benchmarks' own programs read."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from slhf_training.evaluation.answers import Answers, Slot
from slhf_training.evaluation.chains import Chain, file_name, label
from slhf_training.evaluation.ifeval import Instructed
from slhf_training.evaluation.prompts import Prompt

ALPACA_EVAL = "model_outputs.json"
IFEVAL = "input_response_data.jsonl"


def export_alpaca_eval(folder: Path, chains: Iterable[Chain], prompts: Mapping[str, Prompt], answers: Answers) -> None:
    """folder/PLAYER/model_outputs.json: AlpacaEval's list of instruction, output and generator."""
    for chain in chains:
        rows = [
            {"instruction": instruction, "output": text, "generator": label(chain)}
            for instruction, text in _single_turns(chain, list(prompts.values()), answers)
        ]
        _written(folder, chain, ALPACA_EVAL, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")


def export_ifeval(folder: Path, chains: Iterable[Chain], prompts: Sequence[Instructed], answers: Answers) -> None:
    """folder/PLAYER/input_response_data.jsonl: prompt and response, as Google's evaluation_main.py reads them."""
    for chain in chains:
        rows = _single_turns(chain, [one.prompt for one in prompts], answers)
        lines = [json.dumps({"prompt": prompt, "response": text}, ensure_ascii=False) for prompt, text in rows]
        _written(folder, chain, IFEVAL, "".join(f"{line}\n" for line in lines))


def _single_turns(chain: Chain, prompts: Sequence[Prompt], answers: Answers) -> list[tuple[str, str]]:
    """What these formats can hold; an answer that is not there is empty."""
    found = zip(prompts, answers.texts(Slot(chain, prompt.id) for prompt in prompts), strict=True)
    return [(prompt.chat[0]["content"], text or "") for prompt, text in found if len(prompt.chat) == 1]


def _written(folder: Path, chain: Chain, name: str, content: str) -> None:
    path = folder / file_name(chain) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8", errors="replace")
