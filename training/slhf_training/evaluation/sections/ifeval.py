"""IFEval: accuracy of each player, and what refinement gains and loses."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from slhf_training.config import Section
from slhf_training.evaluation.answers import Answers, Slot
from slhf_training.evaluation.chains import Chain, label, parsed
from slhf_training.evaluation.exports import single_turns, write_export
from slhf_training.evaluation.ifeval import (
    IFEvalSettings,
    Verdict,
    checker_of,
    followed,
    ifeval_report,
    read_instructed,
)
from slhf_training.evaluation.markdown import estimate, heading, table
from slhf_training.evaluation.measurement import Measurement
from slhf_training.evaluation.prompts import Prompt
from slhf_training.evaluation.study import Row, Study, row_of

IFEVAL = "input_response_data.jsonl"


class IFEval(Measurement[IFEvalSettings]):
    name: ClassVar[str] = "ifeval"
    place: ClassVar[int] = 60
    settings: ClassVar[type[Section]] = IFEvalSettings
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, how: IFEvalSettings, main: Mapping[str, Prompt], limit: int | None) -> None:
        self._instructed, self._check = read_instructed(how, limit), checker_of(how)
        super().__init__(how, {one.prompt.id: one.prompt for one in self._instructed}, limit)

    @classmethod
    def chains(cls, how: IFEvalSettings) -> list[Chain]:
        return list(dict.fromkeys(map(parsed, how.players)))

    def export(self, folder: Path, answers: Answers) -> None:
        """folder/PLAYER/input_response_data.jsonl: prompt and response, as Google's evaluation_main.py reads them."""
        prompts = [one.prompt for one in self._instructed]
        for chain in self.chains(self.how):
            rows = single_turns(chain, prompts, answers)
            lines = [json.dumps({"prompt": prompt, "response": text}, ensure_ascii=False) for prompt, text in rows]
            write_export(folder, chain, IFEVAL, "".join(f"{line}\n" for line in lines))

    def figures(self, study: Study) -> Row:
        """Of a player that refines also how much it differs from its draft."""
        chains = self.chains(self.how)
        verdicts = {chain: self._verdicts(study, chain) for chain in {*chains, *(chain[:1] for chain in chains)}}
        return {
            "checker": self.how.checker,
            "prompts": len(self._instructed),
            "kinds": sorted({kind for one in self._instructed for kind in one.row.kinds}),
            "players": {
                label(chain): {
                    **ifeval_report(verdicts[chain], study.bootstrap),
                    **(_gain(study, verdicts[chain[:1]], verdicts[chain]) if len(chain) > 1 else {}),
                }
                for chain in chains
            },
        }

    def _verdicts(self, study: Study, chain: Chain) -> list[Verdict]:
        """An answer that is not there follows nothing."""
        texts = study.answers.texts(Slot(chain, one.prompt.id) for one in self._instructed)
        return [self._check(one, text or "") for one, text in zip(self._instructed, texts, strict=True)]

    @staticmethod
    def markdown(figures: Mapping[str, Any]) -> Iterator[str]:
        yield from heading(
            "IFEval",
            f"{figures['prompts']} prompts, checked by {figures['checker']}; gains are refined minus draft by prompt. "
            f"Kinds of instruction: {', '.join(figures['kinds'])}.",
        )
        columns = ("prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose")
        gains = ("gain_prompt_strict", "gain_prompt_loose")
        yield from table(
            ["player", *(name.replace("_", ", ") for name in columns), "gain, strict", "gain, loose"],
            (
                [name, *(estimate(row.get(key)) for key in (*columns, *gains))]
                for name, row in figures["players"].items()
            ),
        )


def _gain(study: Study, before: Sequence[Verdict], after: Sequence[Verdict]) -> Row:
    """Accuracy by prompt, refined minus draft, on the same prompts."""
    return {
        f"gain_prompt_{how}": row_of(study.bootstrap.mean(followed(after, how) - followed(before, how)))
        for how in ("strict", "loose")
    }
