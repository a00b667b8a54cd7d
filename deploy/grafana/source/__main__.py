"""Writes the dashboards' JSON: `scripts/dashboards` runs this in an environment that has the SDK."""

import sys
from pathlib import Path

from engine import engine
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from refinement import refinement

BUILDERS = {"refinement.json": refinement, "engine.json": engine}


def main(folder: Path) -> None:
    for name, builder in BUILDERS.items():
        made = builder().build()
        for number, panel in enumerate(made.panels or [], 1):
            panel.id_val = number
        text = JSONEncoder(indent=2, sort_keys=True).encode(made)
        (folder / name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
