"""How good both roles are while they are trained: on held-out chats, by a judge that the training does not ask.

The Leader's answer meets the reference's, and the Follower's meets the Leader's. What a run is measured by is what its
users would read: the last answer against the reference's. Every validation draws the same random numbers, so that two
of them differ by the weights alone.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import EarlyStoppingCallback, TrainerCallback

from slhf_training.errors import DataError
from slhf_training.fit import ValidationSettings
from slhf_training.fit.algorithms import Algorithm, Completion
from slhf_training.fit.step import ChatStepContext, Clock, Environment
from slhf_training.models.sharding import this_process
from slhf_training.preference import Preference, Verifying
from slhf_training.types import Chat, Probabilities, as_text, chat_key

FILE = "validation.jsonl"
SCORE = "eval_score"
"""The metric by which the best step is chosen; transformers wants the prefix."""


def arguments_of(settings: ValidationSettings | None) -> dict[str, Any]:
    """transformers' arguments, by which its Trainer validates and keeps the best step in its state."""
    if settings is None:
        return {}
    return {
        "eval_strategy": "steps",
        "eval_steps": settings.every,
        "metric_for_best_model": SCORE,
        "greater_is_better": True,
        "restore_callback_states_from_checkpoint": True,
    }


def patience_of(settings: ValidationSettings | None) -> list[TrainerCallback]:
    return [] if settings is None or settings.patience is None else [EarlyStoppingCallback(settings.patience)]


class Validation:
    def __init__(self, chats: Sequence[Chat], preference: Preference, trained_on: Sequence[Chat]) -> None:
        """Raises DataError for chats that are trained on, and where there are fewer than processes."""
        known = {chat_key(chat) for chat in trained_on}
        if shared := sum(chat_key(chat) in known for chat in chats):
            raise DataError(f"validation.data: {shared} of {len(chats)} chats are trained on")
        ours = this_process()
        if len(chats) < ours.num_processes:
            raise DataError(f"validation.data: {len(chats)} chats do not do for {ours.num_processes} processes")
        numbers = range(ours.process_index, len(chats), ours.num_processes)
        self._numbers, self._chats = [*numbers], [chats[number] for number in numbers]
        self._preference = preference
        self._reference: list[Completion] = []

    def __call__(self, environment: Environment, plays: Algorithm) -> list[dict[str, Any]]:
        """One record for each of this process's chats: the answers, the judge's p (NaN: abstained), tokens and entropy,
        and which answers are right, where the judge knows.

        Entropy is the mean of minus the log-probs of what was sampled, nats a token.
        """
        asked = replace(environment, preference=self._preference, clock=Clock(), eos_penalty=0.0)
        context = ChatStepContext(asked, self._chats, self._numbers, step=0)
        answers = {"leader": context.answer("leader", 0)}
        self._reference = self._reference or context.answer("reference", 1)
        p = {"leader": context.judge(answers["leader"], self._reference)}
        p["score"] = p["leader"]
        if "follower" in plays.trains:
            answers["follower"] = context.answer("follower", 2, answers["leader"])
            p["follower"] = context.judge(answers["follower"], answers["leader"])
            p["score"] = context.judge(answers["follower"], self._reference)
        right = self._right({"reference": self._reference, **answers})
        return [
            self._record(at, {role: of_role[at] for role, of_role in answers.items()}, p)
            | {"right": {player: float(verdicts[at]) for player, verdicts in right.items()}}
            for at in range(len(self._chats))
        ]

    def _right(self, answers: Mapping[str, Sequence[Completion]]) -> dict[str, Probabilities]:
        judge = self._preference
        if not isinstance(judge, Verifying):
            return {}
        return {player: judge.right(self._chats, [one.text for one in said]) for player, said in answers.items()}

    def _record(self, at: int, answers: Mapping[str, Completion], p: Mapping[str, Probabilities]) -> dict[str, Any]:
        texts = {role: answer.text for role, answer in answers.items()}
        return {
            "number": self._numbers[at],
            "chat": as_text(self._chats[at]),
            "reference": self._reference[at].text,
            **texts,
            "p": {name: float(values[at]) for name, values in p.items()},
            "tokens": {role: len(answer.sample.ids) for role, answer in answers.items()},
            "entropy": {role: -float(np.mean(answer.sample.logps or [0.0])) for role, answer in answers.items()},
        }


def figures(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The log's figures of all processes' records; win rates have 95 % intervals, by the normal distribution."""
    found: dict[str, float] = {}
    for name in records[0]["p"]:
        p = np.array([record["p"][name] for record in records])
        judged = p[~np.isnan(p)]
        mean = float(judged.mean()) if len(judged) else math.nan
        half = 1.96 * float(judged.std(ddof=1)) / math.sqrt(len(judged)) if len(judged) > 1 else math.nan
        key = "validation" if name == "score" else f"validation/{name}"
        found |= {f"{key}/win_rate": mean, f"{key}/low": mean - half, f"{key}/high": mean + half}
        found[f"{key}/judged"] = len(judged) / len(records)
    for role in records[0]["tokens"]:
        for what in ("tokens", "entropy"):
            found[f"validation/{role}/{what}"] = float(np.mean([record[what][role] for record in records]))
    for player in records[0]["right"]:
        verdicts = np.array([record["right"][player] for record in records])
        if not np.isnan(verdicts).all():
            found[f"validation/{player}/right"] = float(np.nanmean(verdicts))
    score = found["validation/win_rate"]
    return found | {SCORE: -math.inf if math.isnan(score) else score}


def write(directory: Path, step: int, records: Sequence[Mapping[str, Any]]) -> None:
    """Append the records to the run's file, a line each."""
    with (directory / FILE).open("a", encoding="utf-8") as file:
        for record in records:
            known = {
                key: {name: None if math.isnan(value) else value for name, value in record[key].items()}
                for key in ("p", "right")
            }
            file.write(json.dumps({"step": step, **record, **known}, ensure_ascii=False) + "\n")


def shown(records: Sequence[Mapping[str, Any]], most: int = 8) -> str:
    """Some of the records as Markdown, for TensorBoard."""
    return "\n\n---\n\n".join("\n\n".join(_parts(record)) for record in records[:most])


def _parts(record: Mapping[str, Any]) -> Iterator[str]:
    yield _quoted(record["chat"])
    for name in ("reference", "leader", "follower"):
        if name in record:
            p = record["p"].get(name)
            yield f"**{name}**" + ("" if p is None else f" (p {p:.2f})")
            yield _quoted(record[name])


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.splitlines())
