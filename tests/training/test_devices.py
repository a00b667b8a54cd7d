"""Where models lie that are not trained: on the device that accelerate gives this process, not on the first GPU."""

import os
import subprocess
import sys
from pathlib import Path

from slhf import Bundle, write_bundle
from slhf_training.evaluation.generation import BundlePolicies
from slhf_training.models.bundles import open_bundle
from slhf_training.preference.fluency import Fluency, FluencySettings, fluency_of
from slhf_training.reward.backbone import Backbone
from tests.training import tiny

ROOT = Path(__file__).resolve().parents[2]


def show(directory: str) -> None:
    """In a process of its own: where accelerate put it is decided once."""
    backbone = Backbone.load(f"{directory}/backbone", [1], 64, 64)
    fluency = fluency_of(FluencySettings(kind="fluency", model=f"{directory}/bundle"))
    assert isinstance(fluency, Fluency)
    speaker = BundlePolicies(open_bundle("model", f"{directory}/bundle"))
    devices = [backbone.model.device, fluency.model.device, speaker.device]
    Path(directory, "devices").write_text(" ".join(map(str, devices)))


def test_judges_and_speakers_lie_on_the_device_of_their_process(tmp_path: Path) -> None:
    """On GPUs accelerate gives each process its own by number; `meta`, which no default is, stands for that here."""
    tiny.write_backbone(tmp_path / "backbone")
    tiny.model().save_pretrained(tmp_path / "bundle")
    tiny.tokenizer().save_pretrained(tmp_path / "bundle")
    write_bundle(tmp_path / "bundle", Bundle(name="tiny", trained="no"))
    command = [sys.executable, "-c", f"from tests.training.test_devices import show; show({str(tmp_path)!r})"]
    environment = os.environ | {
        "ACCELERATE_TORCH_DEVICE": "meta",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    done = subprocess.run(command, env=environment, timeout=120, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "devices").read_text() == "meta meta meta"
