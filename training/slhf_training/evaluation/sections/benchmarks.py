"""Other people's benchmarks: IFEval, and answers for AlpacaEval's own annotators.

IFEval (Zhou et al. 2023, arXiv 2311.07911): instructions that a program can check, and the programs that do."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from slhf_training.checks.instructions import InstructedRow, follows, follows_loosely, unchecked
from slhf_training.config import RelativePath, Section
from slhf_training.data.load import DataSettings
from slhf_training.data.rows import read_rows
from slhf_training.errors import DataError, SettingsError
from slhf_training.evaluation.answers import Answers, Chain, ChainLabel, Slot, label, parsed
from slhf_training.evaluation.pages import estimate, heading, single_turns, table, write_export
from slhf_training.evaluation.prompts import Prompt, read_prompts
from slhf_training.evaluation.sections import Measurement
from slhf_training.evaluation.statistics import Bootstrap, Numbers
from slhf_training.evaluation.study import Figures, SectionData, row_of
from slhf_training.instructions import instructed_rows
from slhf_training.types import Message


class IFEvalSettings(Section):
    files: tuple[RelativePath, ...] = ()
    """JSONL(.gz) with `key`, `prompt`, `instruction_id_list` and `kwargs`, as Google publishes them."""
    hub: str | None = None
    """A data set of the same columns, such as google/IFEval."""
    players: tuple[ChainLabel, ...] = Field(min_length=1)
    checker: Literal["lm-eval", "exact"] = "lm-eval"
    """`lm-eval`: Google's checkers as lm-evaluation-harness ships them (the extra `ifeval`); `exact`: our own, for the
    kinds of instruction that need no tokenizer or language detector, and IFBench's (checks/); other prompts are
    left out.
    """

    @model_validator(mode="after")
    def _some_source(self) -> Self:
        if not self.files and self.hub is None:
            raise ValueError("name at least one of files and hub")
        return self


@dataclass(frozen=True, slots=True)
class Instructed:
    """A prompt that says what can be checked."""

    prompt: Prompt
    row: InstructedRow


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether each instruction is followed. Loosely, markup and the first or last line are forgiven."""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


Checker = Callable[[Instructed, str], Verdict]
KEPT = ("strict", "loose")


def read_instructed(settings: IFEvalSettings, limit: int | None = None) -> list[Instructed]:
    """The prompts that the checker can check. Raises DataError naming file and line."""
    every = [instructed for path in settings.files for instructed in _of_rows(read_rows(path), str(path))]
    if settings.hub is not None:
        every += _of_rows(enumerate(_hub_rows(settings.hub), start=1), settings.hub)
    if settings.checker == "exact":
        every = [one for one in every if not unchecked(one.row.kinds, one.row.arguments)]
    if not every:
        raise DataError("ifeval: no prompt whose instructions can be checked")
    return every[:limit]


def checker_of(settings: IFEvalSettings) -> Checker:
    """Raises SettingsError where its package or data is missing."""
    return exact if settings.checker == "exact" else lm_eval_checker()


def exact(instructed: Instructed, answer: str) -> Verdict:
    row = instructed.row
    return Verdict(row.followed(answer, follows), row.followed(answer, follows_loosely))


def lm_eval_checker() -> Checker:
    """lm-evaluation-harness's copy of Google's checkers, which is maintained; its language detector is seeded."""
    try:
        import langdetect
        import nltk
        from lm_eval.tasks.ifeval.utils import (
            InputExample,
            test_instruction_following_loose,
            test_instruction_following_strict,
        )

        nltk.data.find("tokenizers/punkt_tab")
    except ModuleNotFoundError as exc:
        raise SettingsError(
            f"ifeval.checker: the package {exc.name} is not installed: "
            "pip install slhf-training[ifeval], or choose exact"
        ) from exc
    except LookupError as exc:
        raise SettingsError("ifeval.checker: nltk has no punkt_tab: python -m nltk.downloader punkt_tab") from exc
    langdetect.DetectorFactory.seed = 0

    def check(instructed: Instructed, answer: str) -> Verdict:
        row = instructed.row
        example = InputExample(0, list(row.kinds), row.prompt, [dict(one) for one in row.arguments])
        strict = test_instruction_following_strict(example, answer).follow_instruction_list
        return Verdict(tuple(strict), tuple(test_instruction_following_loose(example, answer).follow_instruction_list))

    return check


def ifeval_report(verdicts: Sequence[Verdict], bootstrap: Bootstrap) -> dict[str, Any]:
    """Accuracy by prompt (all of its instructions followed) and by instruction, with intervals over prompts."""
    found: dict[str, Any] = {}
    for how in KEPT:
        followed: list[tuple[bool, ...]] = [getattr(verdict, how) for verdict in verdicts]
        whole = bootstrap.mean(np.array([all(one) for one in followed], dtype=np.float64))
        found[f"prompt_{how}"] = whole and whole.row()
        each = bootstrap.of(_ratio([sum(one) for one in followed], [len(one) for one in followed]), len(followed))
        found[f"instruction_{how}"] = each and each.row()
    return found


def followed(verdicts: Sequence[Verdict], how: Literal["strict", "loose"]) -> Numbers:
    """(N,): 1 where a prompt's instructions are all followed."""
    return np.array([all(getattr(verdict, how)) for verdict in verdicts], dtype=np.float64)


def _ratio(above: Sequence[int], below: Sequence[int]) -> Callable[[Numbers], Numbers]:
    return lambda weights: np.asarray((weights @ np.array(above)) / (weights @ np.array(below)), dtype=np.float64)


def _of_rows(rows: Iterator[tuple[int, Mapping[str, Any]]], place: str) -> list[Instructed]:
    found = []
    for number, row in enumerate(instructed_rows(rows, place), start=1):
        name = str(number if row.key is None else row.key)
        found.append(Instructed(Prompt([Message(role="user", content=row.prompt)], name), row))
    return found


def _hub_rows(name: str) -> Iterator[Mapping[str, Any]]:
    import datasets  # late: it takes a second, and JSONL files do not need it

    try:
        yield from datasets.load_dataset(name, split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as exc:
        raise DataError(f"{name}: {exc}") from exc


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

    def figures(self, study: SectionData) -> Figures:
        """Each chain's figures; for one that refines also how much its texts differ from their drafts."""
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

    def _verdicts(self, study: SectionData, chain: Chain) -> list[Verdict]:
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


def _gain(study: SectionData, before: Sequence[Verdict], after: Sequence[Verdict]) -> Figures:
    """Accuracy by prompt, refined minus draft, on the same prompts."""
    return {
        f"gain_prompt_{how}": row_of(study.bootstrap.mean(followed(after, how) - followed(before, how)))
        for how in ("strict", "loose")
    }


ALPACA_EVAL = "model_outputs.json"


class AlpacaEvalSettings(Section):
    """Answers for AlpacaEval's own annotators."""

    prompts: DataSettings
    players: tuple[ChainLabel, ...] = Field(min_length=1)


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

    def figures(self, study: SectionData) -> None:
        return None

    @staticmethod
    def markdown(figures: Mapping[str, Any]) -> Iterator[str]:
        return iter(())
