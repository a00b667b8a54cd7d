"""What version 0.1.0 wrote, and what was written for it, is read as it is."""

import json
from pathlib import Path

import slhf_server
from slhf import read_bundle
from slhf_training.config import read_config
from slhf_training.fit import FitSettings
from slhf_training.fit.run import changed, checkpoint_of, last_checkpoint, settings_of
from slhf_training.models.bundles import open_bundle
from slhf_training.preference.checked import CheckedSettings
from slhf_training.preference.mixture import MixtureSettings, PanelSettings

OLDER = Path(__file__).with_name("older")
TRAINED = Path(slhf_server.__path__[0]) / "builtin" / "trained" / "smollm2-135m-slhf"


def test_a_configuration_is_read_and_so_is_the_run_directory_that_came_of_it() -> None:
    """`settings.json` is what 0.1.0 made of the YAML file beside it. Keys that came later are written as not given; of
    defaults that are others now, a run keeps those that it began with, and one that goes on is told."""
    settings = read_config(OLDER / "fit.yaml", FitSettings, {"output_dir": OLDER / "run"})
    assert changed(settings) == ["game.leader_update_every: 1 before, 2 now"]
    then = json.loads((OLDER / "run" / "settings.json").read_text(encoding="utf-8"))
    read = json.loads(settings_of(OLDER / "run").model_dump_json())
    assert read.pop("game") == then.pop("game") | {"preset": "default"}
    assert then == {key: read[key] for key in then}
    assert {key: read[key] for key in read.keys() - then.keys()} == {
        "adapter": None,
        "ema_decay": None,
        "validation": None,
    }
    assert checkpoint_of(OLDER / "run", 25) == last_checkpoint(OLDER / "run") == OLDER / "run" / "checkpoint-25"


def test_of_preferences_every_level_is_read() -> None:
    preference = read_config(OLDER / "fit.yaml", FitSettings).preference
    assert isinstance(preference, MixtureSettings)
    kinds = [source.preference.kind for source in preference.sources]
    assert kinds == ["attributes", "checked", "panel"]
    checked, panel = (source.preference for source in preference.sources[1:])
    assert isinstance(checked, CheckedSettings)
    assert not isinstance(checked.tie, str)
    assert checked.tie.kind == "fluency"
    assert isinstance(panel, PanelSettings)
    assert [judge.preference.kind for judge in panel.judges.values()] == ["reward", "callable"]


def test_the_built_in_bundle_is_opened_with_what_it_says_of_its_training() -> None:
    manifest = read_bundle(TRAINED)
    assert (manifest.trained, manifest.training["settings"]["algorithm"]) == ("stackelberg", "stackelberg")
    assert len(manifest.training["distillations"]) == 2
    opened = open_bundle("bundle", str(TRAINED))
    assert opened.manifest == manifest
    assert opened.adapter("leader") == opened.adapter("follower") == TRAINED / "policy"
