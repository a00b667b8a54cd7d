"""A generator without a model, a judge without weights, and configurations: all of an evaluation but the text."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from slhf import Bundle, write_bundle
from slhf_server.bundles.opened import OpenBundle
from slhf_training.evaluation import EvaluateSettings, GenerationSettings, evaluate_settings
from slhf_training.evaluation.answers import NONE, Answer
from slhf_training.evaluation.generation import Generator, Keep, Task
from slhf_training.preference import Preference
from slhf_training.types import Chat, Probabilities

Reply = Callable[[Task, str | None], str | None]
"""What to write upon this text (None: to the prompt alone); None: no room."""


def marked(name: str) -> Reply:
    """The Leader repeats the question under its name; the Follower adds its name to the draft."""

    def reply(task: Task, draft: str | None) -> str:
        question = task.chat[-1]["content"]
        return f"{name}: {question}" if draft is None else f"{draft} +{name}"

    return reply


class FakeGenerator:
    """Implements `Generator`; `written` counts answers."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.written = 0

    def write(self, tasks: Sequence[Task], keep: Keep) -> None:
        for number, task in enumerate(tasks):
            latest = Answer(task.draft)
            for place in range(task.answers):
                text = None if latest.finish in ("kept", "refused") else self._reply(task, latest.text)
                if text is not None:
                    latest = Answer(text)
                else:
                    latest = NONE if latest.text is None else Answer(latest.text, "kept")
                self.written += 1
                keep(number, place, latest)


class FakeModels:
    """An `OpenModel`; `opened` lists the models in the order they were opened."""

    def __init__(self, reply: Callable[[str], Reply] = marked) -> None:
        self._reply = reply
        self.opened: list[str] = []
        self.written: dict[str, int] = {}

    @contextmanager
    def __call__(self, name: str, bundle: OpenBundle, spec: str, how: GenerationSettings) -> Iterator[Generator]:
        self.opened.append(name)
        generator = FakeGenerator(self._reply(name))
        yield generator
        self.written[name] = self.written.get(name, 0) + generator.written


class Longer:
    """A judge for whom the longer text wins; `asked` counts pairs."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        self.asked += len(chats)
        difference = np.array([len(one) - len(two) for one, two in zip(first, second, strict=True)])
        return np.asarray((1 + np.sign(difference)) / 2, dtype=np.float64)

    def of(self, settings: Any) -> Preference:
        return self


def longer(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
    """The same, to be named in a configuration."""
    return Longer()(chats, first, second)


def empty_bundle(folder: Path) -> Path:
    """A bundle that opens and holds no weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    write_bundle(folder, Bundle(name=folder.name, trained="no"))
    return folder


def jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


QUESTIONS = ["Why is the sky blue?", "What is a fish?", "Name a tree."]


def configuration(folder: Path, **sections: Any) -> dict[str, Any]:
    """Two bundles, `base` and `slhf`, and three prompts."""
    folder.mkdir(exist_ok=True)
    for name in ("base", "slhf"):
        if not (folder / name).exists():
            empty_bundle(folder / name)
    prompts = jsonl(folder / "prompts.jsonl", [{"prompt": question} for question in QUESTIONS])
    return {
        "output_dir": str(folder / "out"),
        "models": {name: {"bundle": str(folder / name)} for name in ("base", "slhf")},
        "prompts": {"files": [str(prompts)]},
        "preference": {"kind": "callable", "function": "tests.training.evaluation.fakes:longer"},
        "resamples": 50,
        **sections,
    }


def settings(folder: Path, **sections: Any) -> EvaluateSettings:
    return evaluate_settings().model_validate(configuration(folder, **sections))
