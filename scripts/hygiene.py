"""The checks of scripts/check that no tool knows: hygiene.py versions|lock-files|hosts|paths|shell.

Each looks at the files git tracks, prints a line per finding and exits 1 where there is one.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTIONS = ("clients/python", "server", "training")
LOCK_FILES = ("*.lock", "*.lockb", "*-lock.json", "*-lock.yaml", "npm-shrinkwrap.json", "pylock*.toml", "go.sum")

# Where packages come from is the machine's affair (pip's, npm's configuration). The brackets keep the patterns from
# finding themselves.
HOSTS = re.compile(
    r"\b(?:pypi[.](?:[a-z0-9-]+[.])*(?:org|com|cn|net|io)|pythonhosted[.]org|download[.]pytorch[.]org|wheels[.]vllm[.]ai"
    r"|npmjs[.](?:org|com)|yarnpkg[.]com|npmmirror[.]com|anaconda[.](?:org|com)|proxy[.]golang[.]org|crates[.]io"
    r"|rubygems[.]org|maven[.]org)\b"
)
# Where the version is written out, for people and tools that do not read the file VERSION.
WRITTEN_OUT = re.compile(
    r"\bslhf-server:(\d[\w.]*)-(?:gpu|cpu|ray|gateway|training)\b"  # an image's tag
    r"|^(?:ARG VERSION=|version: |appVersion: )(\d\S*)"  # the Dockerfile's label, the chart's two
    r"|\bslhf(?:-server)?~=(\d[\d.]*)",  # what one distribution wants of another
    re.MULTILINE,
)
OF_THE_VERSION = ("Dockerfile", "deploy/*", "docs/*.md", "*/pyproject.toml")
# A path of the machine that somebody worked on; part of an address or of a longer path it is none.
MACHINE_PATHS = re.compile(r"(?<![\w./~$}-])/(?:home|root|work|Users)/\w")
# A container has its own file system, and these describe one.
OF_CONTAINERS = ("Dockerfile*", "deploy/*")


def newest_version(changelog: str) -> str | None:
    """Of the first heading with a number: "## 0.1.0" or "## [0.1.0] - 2026-11-01"."""
    found = re.search(r"^##\s+\[?v?(\d+\.\d+[^\]\s]*)", changelog, re.MULTILINE)
    return found and found[1]


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listing.split("\0") if name and (ROOT / name).is_file()]


def lines_matching(pattern: re.Pattern[str], files: list[Path]) -> Iterator[str]:
    for file in files:
        try:
            lines = (ROOT / file).read_text().splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            if pattern.search(line):
                yield f"{file}:{number}: {line.strip()[:160]}"


def versions() -> Iterator[str]:
    """The file VERSION is right; all else follows it."""
    changelog = ROOT / "CHANGELOG.md"
    newest = newest_version(changelog.read_text()) if changelog.exists() else None
    version = (ROOT / "VERSION").read_text().strip()
    if newest is None:
        yield "CHANGELOG.md names no version (## 0.1.0)"
    elif newest != version:
        yield f"VERSION: {version}, but CHANGELOG.md's newest is {newest}"
    for folder in DISTRIBUTIONS:
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())
        source = project.get("tool", {}).get("hatch", {}).get("version", {}).get("path", "")
        if (ROOT / folder / source).resolve() != (ROOT / "VERSION").resolve():
            yield f"{folder}/pyproject.toml: its version is not that of the file VERSION"
    for file in tracked():
        if any(fnmatch(str(file), pattern) for pattern in OF_THE_VERSION):
            for tag, label, wanted in WRITTEN_OUT.findall((ROOT / file).read_text(errors="ignore")):
                right = version == (tag or label) or (wanted and version.startswith(wanted.rpartition(".")[0] + "."))
                if not right:
                    yield f"{file}: {tag or label or wanted}, but VERSION says {version}"


def lock_files() -> Iterator[str]:
    for file in tracked():
        if any(fnmatch(file.name, pattern) for pattern in LOCK_FILES):
            yield f"{file}: a lock file; constraints.txt holds our pins"


def hosts() -> Iterator[str]:
    yield from lines_matching(HOSTS, tracked())


def paths() -> Iterator[str]:
    files = [file for file in tracked() if not any(fnmatch(str(file), pattern) for pattern in OF_CONTAINERS)]
    yield from lines_matching(MACHINE_PATHS, files)


def is_shell(file: Path) -> bool:
    with (ROOT / file).open("rb") as script:
        return file.suffix == ".sh" or re.match(rb"#!.*\b(?:ba)?sh\b", script.readline()) is not None


def shell() -> Iterator[str]:
    for file in filter(is_shell, tracked()):
        parsed = subprocess.run(["bash", "-n", str(file)], cwd=ROOT, capture_output=True, text=True)
        if parsed.returncode:
            yield parsed.stderr.strip()


CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    "versions": versions,
    "lock-files": lock_files,
    "hosts": hosts,
    "paths": paths,
    "shell": shell,
}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in CHECKS:
        sys.stderr.write(f"usage: hygiene.py {'|'.join(CHECKS)}\n")
        return 2
    findings = list(CHECKS[arguments[0]]())
    sys.stdout.writelines(f"{finding}\n" for finding in findings)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
