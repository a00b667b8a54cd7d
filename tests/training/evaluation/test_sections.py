"""The sections of an evaluation are the files of one folder: what is added there is computed and reported."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from slhf_training.config import read_config
from slhf_training.errors import SettingsError
from slhf_training.evaluation import evaluate_settings, sections
from slhf_training.evaluation.run import READABLE, evaluate
from tests.training.evaluation.fakes import FakeModels, Longer, configuration, settings

LENGTHS = """
from slhf_training.config import Section
from slhf_training.evaluation.sections import Measurement


class LengthsSettings(Section):
    model: str


class Lengths(Measurement[LengthsSettings]):
    name = "lengths"
    place = 1
    settings = LengthsSettings
    needs = frozenset({"prompts"})

    @classmethod
    def chains(cls, how):
        return [(how.model,)]

    def figures(self, study):
        return {"longest": max(len(text) for text in study.answers.texts(study.slots((self.how.model,))))}

    @staticmethod
    def markdown(figures):
        yield f"The longest answer has {figures['longest']} characters."
"""


@pytest.fixture
def lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A section that is one file, where sections are looked for."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "lengths.py").write_text(LENGTHS)
    module = f"{sections.__name__}.lengths"
    monkeypatch.setattr(sections, "__path__", [*sections.__path__, str(tmp_path / "more")])
    monkeypatch.setitem(sys.modules, module, None)  # so that what is imported is forgotten afterwards
    del sys.modules[module]


@pytest.mark.usefixtures("lengths")
def test_a_section_is_added_by_one_file(tmp_path: Path) -> None:
    models = FakeModels()
    report = evaluate(settings(tmp_path, lengths={"model": "slhf"}), opened=models, judge=Longer().of)
    assert models.opened == ["slhf"]
    assert report["sections"] == {"lengths": {"longest": len("slhf: Why is the sky blue?")}}
    assert "The longest answer has 26 characters." in (tmp_path / "out" / READABLE).read_text()


@pytest.mark.usefixtures("lengths")
def test_an_added_section_is_checked_as_all_are(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'gpt' is none of the models base, slhf"):
        read(tmp_path, lengths={"model": "gpt"})
    with pytest.raises(SettingsError, match=r"lengths.model: Field required"):
        read(tmp_path, lengths={})


def test_without_its_file_there_is_no_such_section(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="lengths: Extra inputs"):
        read(tmp_path, lengths={"model": "slhf"})


@pytest.mark.parametrize("key", ["prompts", "preference"])
def test_a_section_names_what_is_missing_beside_it(key: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"round_robin needs {key}"):
        read(tmp_path, round_robin={"players": ["base", "slhf"]}, **{key: None})


def read(folder: Path, **changes: Any) -> Any:
    path = folder / "evaluate.yaml"
    path.write_text(yaml.safe_dump({**configuration(folder), **changes}))
    return read_config(path, evaluate_settings())
