"""The playground in a real Chromium, driven by checks.mjs; scripts/deploy-checks installs what drives it.

One browser plays all checks, each in a context of its own, and every check is a test here.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from slhf_server.app import create_app
from slhf_server.models.base import Turn
from slhf_server.models.fake import FakeEngine, Said, improve
from slhf_server.settings.server import Settings
from tests.conftest import running
from tests.deploy.programs import ROOT, found
from tests.server.models.judges.canned import canned

HERE = Path(__file__).parent
WORDS = 300
TOKEN_SECONDS = 0.002


def reply(turns: Sequence[Turn]) -> Said:
    """As the fake's own, but for two prompts: `long` gets texts of 300 words, `lose the code` loses its draft."""
    if turns[0].text == "lose the code":
        return "all is gone"
    if turns[0].text != "long":
        return improve(turns)
    number = 0 if len(turns) < 3 else int(turns[-2].text.split(" ", 1)[0]) + 1
    words = [f"word{place}" if place % 7 else f"changed{number}" for place in range(WORDS)]
    return f"{number} {' '.join(words)}"


def once_better(text: str) -> float:
    """To the judge a draft that was refined once is the best, and one that was refined twice the worst."""
    return 1.0 if text.count("better") == 1 else -float(text.count("better"))


def judged_by(url: str, verdicts_file: Path) -> Settings:
    judges = {"house": {"reward": {"base_url": url}}}
    return Settings(judges=judges, models={"fake": {"judge": "house"}}, verdicts_file=verdicts_file)


@dataclass
class Played:
    """What the browser said of each check, and the folder of what it copied."""

    errors: dict[str, str | None]
    output: str
    folder: Path
    url: str


def names() -> list[str]:
    """The checks by name, as they are spelled there; those that are made in a loop have a part left open."""
    text = "".join((HERE / file).read_text() for file in ("checks.mjs", "links.mjs"))
    return re.findall(r"""^ *check\(["`](.*?)["`], async""", text, re.MULTILINE)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    modules = os.environ.get("PLAYGROUND_MODULES")
    if modules is None:
        pytest.skip("PLAYGROUND_MODULES is not set: scripts/deploy-checks installs playwright-core and axe-core")
    chromium = found("chromium", "install Debian's package chromium")
    folder = tmp_path_factory.mktemp("playground")
    for file in ("checks.mjs", "links.mjs", "browser.mjs", "xss.md"):
        shutil.copy(HERE / file, folder)
    (folder / "node_modules").symlink_to(modules)  # Node looks for packages beside the file that imports them
    engine = FakeEngine(reply, token_seconds=TOKEN_SECONDS)
    with (
        canned(reward=once_better) as judge,
        running(create_app(judged_by(judge.url, folder / "judged.db"), engine.open)) as judged,
        running(create_app(Settings(verdicts_file=folder / "verdicts.db"), engine.open)) as url,
        running(create_app(Settings(api_keys="me=right", verdicts_file=folder / "keyed.db"), engine.open)) as keyed,
        running(create_app(Settings(), engine.open), "/below/it") as prefixed,
    ):
        places = {
            "URL": f"{url}/",
            "JUDGED": f"{judged}/",
            "KEYED": f"{keyed}/",
            "PREFIXED": f"{prefixed}/",
            "OUT": str(folder),
        }
        environ = os.environ | places | {"CHROMIUM": chromium}
        command = [found("node"), str(folder / "checks.mjs")]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=280)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        yield Played({line["name"]: line["error"] for line in lines}, done.stderr, folder, url)


@pytest.mark.parametrize("name", names())
def test_in_chromium(played: Played, name: str) -> None:
    pattern = re.escape(name).replace(re.escape("${what}"), ".*").replace(re.escape("${colorScheme}"), ".*")
    ran = [error for known, error in played.errors.items() if re.fullmatch(pattern, known)]
    assert ran, f"it did not run: {played.output}"
    said = "\n".join(error for error in ran if error)
    assert not said, said


def copied(played: Played, name: str) -> Path:
    file = played.folder / name
    assert file.exists(), played.errors
    return file


def environ(played: Played) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SLHF_")} | {"NO_PROXY": "*"}


BETTER = 'better better a "draft"\n'


def test_the_copied_curl_is_the_request(played: Played) -> None:
    command = [found("bash"), str(copied(played, "request.sh"))]
    done = subprocess.run(command, env=environ(played), capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["output"] == BETTER


def test_the_copied_python_is_the_request(played: Played) -> None:
    command = [sys.executable, str(copied(played, "request.py"))]
    done = subprocess.run(command, env=environ(played), capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{BETTER}\n", done.stderr


def test_the_downloaded_lines_are_input_of_slhf_refine(played: Played) -> None:
    slhf = [str(Path(sys.executable).with_name("slhf")), "refine", "--base-url", played.url]
    files = ["--input", str(copied(played, "drafts.jsonl")), "--output", "-"]
    done = subprocess.run([*slhf, *files], env=environ(played), cwd=ROOT, capture_output=True, text=True, timeout=60)
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["output"] == BETTER
    assert json.loads(line)["refine"]["seed"] == 7
