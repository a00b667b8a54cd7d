"""A reward model that a bundle carries, in `judge/`: `slhf-train export --judge`."""

import shutil
from pathlib import Path
from typing import Any

from slhf.bundle import JUDGE, BundledJudge
from slhf.json_text import read_json
from slhf_training.errors import SettingsError
from slhf_training.reward.model import ADAPTERS, BESIDE, HEADS, MANIFEST, Manifest
from slhf_training.reward.run import REPORT

_FIGURES = ("accuracy", "interval", "pairs", "coverage")


def carry(source: Path, head: str | None, bundle: Path, base: Path | None = None) -> BundledJudge:
    """Copy what `slhf-train reward` wrote into the bundle's `judge/`; what its manifest says of it.

    `head` is the one that judges (None: the only one). `base`: the directory whose weights lie in the bundle, and are
    the judge's backbone there too, if they are here. Raises SettingsError for what is no reward model, for a head that
    it has not, and for a backbone that others would not find.
    """
    try:
        manifest = Manifest.model_validate(read_json((source / MANIFEST).read_bytes()))
        report = read_json((source / REPORT).read_bytes()) if (source / REPORT).exists() else {}
    except (OSError, ValueError) as exc:
        raise SettingsError(f"--judge: {source}: no reward model: {exc}") from exc
    if base is not None and Path(manifest.backbone).is_absolute() and Path(manifest.backbone).samefile(base):
        manifest = manifest.model_copy(update={"backbone": BESIDE})
    if Path(manifest.backbone).is_absolute():
        raise SettingsError(f"--judge: {source}: its backbone, {manifest.backbone}, is on this machine alone")
    if head is None and len(manifest.heads) > 1:
        raise SettingsError(f"--judge-head: {source} has several: {', '.join(manifest.heads)}")
    found = head or manifest.heads[0]
    if found not in manifest.heads:
        raise SettingsError(f"--judge-head: {source} has no head {found}; it has {', '.join(manifest.heads)}")
    target = bundle / JUDGE
    target.mkdir()
    (target / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(source / HEADS, target / HEADS)
    if manifest.adapters:
        shutil.copytree(source / ADAPTERS, target / ADAPTERS)
    return BundledJudge(head=found, accuracy=_accuracy(report, found))


def _accuracy(report: dict[str, Any], head: str) -> dict[str, Any]:
    """By the name of the held-out data, where they had pairs."""
    found = {name: heads.get(head, {}) for name, heads in report.get("evaluation", {}).items()}
    return {name: {key: figures[key] for key in _FIGURES} for name, figures in found.items() if "accuracy" in figures}
