"""Fetches the files of built-in models into a folder: for an image, or for a machine that has no network.

    python -m slhf_server.builtin NAME... FOLDER

`weights_dir` names the folder to the server. Sources and settings (SLHF_*) are the server's own; a file that is there
already is checked and stays.
"""

import logging
import shutil
import sys
from pathlib import Path

from slhf_server.builtin.fetch import fetched
from slhf_server.builtin.weights import WEIGHTS, Weights
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.reading import load_settings
from slhf_server.settings.server import Settings


def main(arguments: list[str]) -> None:
    """Fetch the files; where one is not to be had, end with status 1 and one line."""
    *names, folder = arguments or [""]
    if not names or not WEIGHTS.keys() >= {*names}:
        sys.exit(f"usage: python -m slhf_server.builtin NAME... FOLDER\nNAME: {', '.join(WEIGHTS)}")
    logging.basicConfig(level="INFO", format="%(message)s")
    try:
        for name in names:
            _put(WEIGHTS[name], Path(folder), load_settings([]))
    except (SettingsError, OSError) as exc:
        sys.exit(str(exc))


def _put(weights: Weights, folder: Path, settings: Settings) -> None:
    target, place = folder / weights.file, folder / f"{weights.key}.fetched"
    own = settings if not target.exists() else settings.model_copy(update={"weights_dir": folder})
    file = fetched(weights, place, own)
    if file.is_relative_to(place):
        file.replace(target)
    elif file != target:
        shutil.copyfile(file, place / weights.file)
        (place / weights.file).replace(target)
    shutil.rmtree(place)


if __name__ == "__main__":
    main(sys.argv[1:])
