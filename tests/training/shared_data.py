"""Real data that lies beside the repository, where it does."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("SLHF_SHARED_DATA", ROOT.parent / "shared" / "data"))

needs_shared_data = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no real data at {FOLDER} (SLHF_SHARED_DATA)")
