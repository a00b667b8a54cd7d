"""Preference sources: who judges whether one answer beats another. One source, one file, and one line of `SOURCES`.

To add one, write a module here (kinds that are close share one) with its SourceSettings, whose `kind` is a Literal and
whose `source` makes a `Preference`; a line of `SOURCES`; and a row in docs/design.md, Preferences. `callable.ByScore`
compares where a source scores each answer alone. A function of your own needs none of this: `kind: callable`.

Imported by fit, evaluation and distill.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final, Protocol, runtime_checkable

import numpy as np
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, ValidationInfo
from pydantic_core import InitErrorDetails

from slhf.bundle import revision_of
from slhf_training.config import Section
from slhf_training.errors import SettingsError
from slhf_training.types import Chat, Probabilities, sigmoid


class Cache:
    """Judgements, which are numbers, by key in a file of sqlite. `path` None keeps them in memory, for this run alone.

    One thread uses it. Raises SettingsError for a file that cannot be used.
    """

    def __init__(self, path: Path | None) -> None:
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path or ":memory:", timeout=60, isolation_level=None)  # every put is committed
        except (OSError, sqlite3.Error) as exc:
            raise SettingsError(f"cache: {path}: {exc}") from exc
        try:
            self._file.execute("CREATE TABLE IF NOT EXISTS judgements (key TEXT PRIMARY KEY, p REAL NOT NULL)")
        except sqlite3.Error as exc:
            self.close()
            raise SettingsError(f"cache: {path}: {exc}") from exc

    def get(self, key: str) -> float | None:
        found = self._file.execute("SELECT p FROM judgements WHERE key = ?", (key,)).fetchone()
        return None if found is None else float(found[0])

    def put(self, key: str, p: float) -> None:
        self._file.execute("INSERT OR REPLACE INTO judgements VALUES (?, ?)", (key, p))

    def put_all(self, judgements: Mapping[str, float]) -> None:
        """Put all or none, with one write to the disk."""
        self._file.execute("BEGIN IMMEDIATE")
        self._file.executemany("INSERT OR REPLACE INTO judgements VALUES (?, ?)", judgements.items())
        self._file.execute("COMMIT")

    def close(self) -> None:
        self._file.close()


def revisions(value: Any) -> Iterator[str]:
    """Yield a revision for the contents of each directory that the settings name, however deep."""
    if isinstance(value, Path) and value.is_dir():
        yield revision_of(value)
    elif isinstance(value, Mapping | list | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from revisions(one)


def sources(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the sections of a source's dumped settings that have a `kind`: its own, and those of sources within it."""
    if isinstance(value, Mapping):
        if "kind" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from sources(one)


def origins(settings: "SourceSettings") -> set[tuple[str, ...]]:
    """What a source's verdicts come from: contents of directories, names of models, addresses; a program's kind."""
    found = set()
    for part in sources(settings.model_dump()):
        named = [str(part[key]) for key in ("url", "base_url", "model", "function") if part.get(key)]
        if named or not any(list(sources(value)) for value in part.values()):
            found.add(
                tuple(revision_of(Path(name)) if Path(name).is_dir() else name for name in named or [part["kind"]])
            )
    return found


class Preference(Protocol):
    """p(first beats second | chat) for a batch; it may be intransitive, and no scalar reward need stand behind it."""

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        """(B,) in [0, 1]; a tie is 0.5. Where the source abstains, as a judge that failed does, it is NaN: the pair is
        dropped and counted.

        Swapping the answers gives one minus the value.
        """


@runtime_checkable
class Verifying(Protocol):
    """A source that knows of an answer alone whether it is right."""

    def right(self, chats: Sequence[Chat], answers: Sequence[str]) -> Probabilities:
        """(B,): 1 for a right answer, 0 for another, NaN where nothing is known about it."""


def both_orders(source: Preference) -> Preference:
    """Return a source whose p is the mean of p(first, second) and 1 - p(second, first), asked as one batch.

    It is NaN where either is.
    """

    def asked(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        p = source([*chats, *chats], [*first, *second], [*second, *first])
        forward, backward = p[: len(chats)], p[len(chats) :]
        mean: Probabilities = (forward + 1 - backward) / 2
        return mean

    return asked


def by_difference(scores: Probabilities, scale: float) -> Probabilities:
    """(B,): the Bradley-Terry model's p of scores, (2B,), the first answers' before the second ones'."""
    first, second = np.split(scores, 2)
    return sigmoid((first - second) / scale)


class SourceSettings(Section):
    """A configuration's `preference` section, of any kind."""

    kind: str

    def source(self) -> Preference:
        """Make the source, ready to be asked. Raises SettingsError naming the key where something is missing."""
        raise NotImplementedError


class EndpointSettings(SourceSettings):
    """Of every source that asks another server."""

    url: str = Field(pattern=r"^https?://")
    """The API's root, such as http://127.0.0.1:8000/v1."""
    api_key_variable: str | None = None
    """The environment variable that holds the key; None: no key is sent."""
    timeout_s: float = Field(default=60, gt=0)
    retries: int = Field(default=4, ge=0)
    """Further tries of a request after a broken connection, a time-out, 408, 409, 429 or a server's error."""
    backoff_s: float = Field(default=0.5, ge=0)
    """Wait before the first retry; each further one is twice as long."""
    most_failures: float = Field(default=0.2, ge=0, le=1)
    """Share of a batch's pairs that may fail; more of them stop the run."""


SOURCES: Final[Mapping[str, str]] = {
    "attributes": "reward.AttributesSettings",
    "reward": "reward.RewardSettings",
    "sequence-classification": "classification.ClassificationSettings",
    "remote-reward": "remote.RemoteRewardSettings",
    "fluency": "fluency.FluencySettings",
    "reference": "reference.ReferenceSettings",
    "instructions": "checked.InstructionsSettings",
    "checked": "checked.CheckedSettings",
    "judge": "judge.JudgeSettings",
    "own-answers": "own_answers.OwnAnswersSettings",
    "model": "model.CausalModelSettings",
    "callable": "callable.CallableSettings",
    "without_length": "length.WithoutLengthSettings",
    "mixture": "mixture.MixtureSettings",
    "panel": "mixture.PanelSettings",
}
"""By kind: the module in this package and the name of its settings. A source is imported when a configuration names it,
so that the settings of commands need neither torch nor transformers."""


def _of_kind(section: Any, info: ValidationInfo) -> SourceSettings:
    """Return the section as its kind's settings. Errors are reported under the kind's name."""
    if isinstance(section, SourceSettings):
        return section
    kind = section.get("kind") if isinstance(section, Mapping) else None
    if not isinstance(kind, str) or kind not in SOURCES:
        raise ValueError(f"kind: expected one of {', '.join(SOURCES)}; got {kind!r}")
    module, _, name = SOURCES[kind].partition(".")
    settings: type[SourceSettings] = getattr(import_module(f"{__name__}.{module}"), name)
    try:
        return settings.model_validate(section, context=info.context)
    except ValidationError as exc:
        found = [
            InitErrorDetails(type=e["type"], loc=(kind, *e["loc"]), input=e["input"], ctx=e.get("ctx", {}))
            for e in exc.errors()
        ]
        raise ValidationError.from_exception_data(kind, found) from exc


PreferenceSettings = Annotated[SerializeAsAny[SourceSettings], BeforeValidator(_of_kind)]


def preference_of(settings: SourceSettings) -> Preference:
    """Make the source that the settings describe. Raises SettingsError as `SourceSettings.source` does."""
    return settings.source()
