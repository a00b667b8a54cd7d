"""Answers for AlpacaEval's own annotators; nothing is judged here."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from slhf_training.config import Section
from slhf_training.data.load import DataSettings
from slhf_training.evaluation.answers import Answers
from slhf_training.evaluation.chains import Chain, Player, label, parsed
from slhf_training.evaluation.exports import single_turns, write_export
from slhf_training.evaluation.measurement import Measurement
from slhf_training.evaluation.prompts import Prompt, read_prompts
from slhf_training.evaluation.study import Study

ALPACA_EVAL = "model_outputs.json"


class AlpacaEvalSettings(Section):
    """Answers for AlpacaEval's own annotators."""

    prompts: DataSettings
    players: tuple[Player, ...] = Field(min_length=1)


class AlpacaEval(Measurement[AlpacaEvalSettings]):
    name: ClassVar[str] = "alpaca_eval"
    place: ClassVar[int] = 70
    settings: ClassVar[type[Section]] = AlpacaEvalSettings
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, how: AlpacaEvalSettings, main: Mapping[str, Prompt], limit: int | None) -> None:
        super().__init__(how, read_prompts(how.prompts, limit), limit)

    @classmethod
    def chains(cls, how: AlpacaEvalSettings) -> list[Chain]:
        return [parsed(player) for player in how.players]

    def export(self, folder: Path, answers: Answers) -> None:
        """folder/PLAYER/model_outputs.json: AlpacaEval's list of instruction, output and generator."""
        for chain in self.chains(self.how):
            rows = [
                {"instruction": instruction, "output": text, "generator": label(chain)}
                for instruction, text in single_turns(chain, self.prompts.values(), answers)
            ]
            write_export(folder, chain, ALPACA_EVAL, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")

    def figures(self, study: Study) -> None:
        return None

    @staticmethod
    def markdown(figures: Mapping[str, Any]) -> Iterator[str]:
        return iter(())
