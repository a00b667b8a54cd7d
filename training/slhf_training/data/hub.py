"""Data sets of the Hugging Face hub. An adapter is a pure function from a row, as documented, to an Example.

A row that an adapter cannot read (hh-rlhf has transcripts with two human turns in a row) gives None; they are counted.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, get_args

from slhf_training.config import Section
from slhf_training.data.examples import Example, Pair, Scores
from slhf_training.data.schemas import HELPSTEER2, Row, log_unused, messages_of, texts_beside, transcript, turns_of
from slhf_training.errors import DataError
from slhf_training.types import Chat

Adapter = Literal["helpsteer2", "hh-rlhf", "ultrafeedback", "tulu-3"]


class HubData(Section):
    name: str
    """Hub id, such as nvidia/HelpSteer2."""
    adapter: Adapter
    split: str = "train"
    folder: str | None = None
    """`data_dir` of `datasets.load_dataset`, such as helpful-base of Anthropic/hh-rlhf."""
    revision: str | None = None


def helpsteer2(row: Row) -> Example | None:
    """nvidia/HelpSteer2: a prompt, whose turns are marked where it has several, one response, and attributes 0 to 4."""
    values = {name: float(row[name]) for name in HELPSTEER2}
    chat = turns_of(row["prompt"])
    return Example(chat, None, Scores(row["response"], values)) if chat[-1]["role"] == "user" else None


def hh_rlhf(row: Row) -> Example | None:
    """Anthropic/hh-rlhf: two transcripts that differ in the assistant's last turn."""
    chosen, rejected = transcript(row["chosen"]), transcript(row["rejected"])
    if len(chosen) < 2 or chosen[:-1] != rejected[:-1] or not _alternates(chosen):
        return None
    return Example(chosen[:-1], Pair(chosen[-1]["content"], rejected[-1]["content"]))


def ultrafeedback(row: Row) -> Example | None:
    """HuggingFaceH4/ultrafeedback_binarized: `chosen` and `rejected` are chats that differ in the last message."""
    return _of_chats(row)


def tulu_3(row: Row) -> Example | None:
    """allenai/llama-3.1-tulu-3-8b-preference-mixture: as UltraFeedback, with an id and a source in each row."""
    return _of_chats(row)


ADAPTERS: Mapping[str, Callable[[Row], Example | None]] = {
    "helpsteer2": helpsteer2,
    "hh-rlhf": hh_rlhf,
    "ultrafeedback": ultrafeedback,
    "tulu-3": tulu_3,
}
assert set(ADAPTERS) == set(get_args(Adapter))

_READ = {"chosen", "rejected", "id", "prompt_id", "source"}
_COLUMNS: Mapping[str, set[str]] = {
    "helpsteer2": {"prompt", "response", "id", "source", *HELPSTEER2},
    "hh-rlhf": _READ,
    "ultrafeedback": _READ | {"prompt", "messages"},  # which say again what `chosen` says
    "tulu-3": _READ | {"prompt"},
}
"""What each adapter reads."""


def hub_examples(source: HubData, wanted: Callable[[Row], bool]) -> Iterator[Example | None]:
    """The data set's wanted rows; None for each row that its adapter cannot read. Raises DataError."""
    import datasets  # late: it takes a second, and JSONL files do not need it

    try:
        rows = datasets.load_dataset(source.name, split=source.split, data_dir=source.folder, revision=source.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as exc:
        raise DataError(f"{source.name}: {exc}") from exc
    unused: Counter[str] = Counter()
    for number, row in enumerate(rows):
        if wanted(row):
            yield _adapted(source, row, f"{source.name}:{source.split}:{number}")
            unused.update(texts_beside(row, _COLUMNS[source.adapter]))
    log_unused(source.name, unused)


def _adapted(source: HubData, row: Row, place: str) -> Example | None:
    try:
        example = ADAPTERS[source.adapter](row)
    except (KeyError, TypeError, ValueError) as exc:
        raise DataError(f"{place}: not a row of {source.adapter}: {type(exc).__name__} {exc}") from exc
    if example is None:
        return None
    name = str(row.get("id") or row.get("prompt_id") or place)
    return Example(example.chat, example.pair, example.scores, id=name, source=str(row.get("source") or source.name))


def _of_chats(row: Row) -> Example | None:
    chosen, rejected = messages_of(row["chosen"], "chosen"), messages_of(row["rejected"], "rejected")
    if len(chosen) < 2 or chosen[:-1] != rejected[:-1] or chosen[-2]["role"] != "user":
        return None
    return Example(chosen[:-1], Pair(chosen[-1]["content"], rejected[-1]["content"]))


def _alternates(chat: Chat) -> bool:
    return all(message["role"] == ("user", "assistant")[i % 2] for i, message in enumerate(chat)) and len(chat) % 2 == 0
