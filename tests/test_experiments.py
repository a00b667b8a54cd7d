"""docs/experiments/: all pages have one form, one table finds them, and every link of our documents leads somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "docs" / "experiments"
NO_RESULTS = {"README.md", "glossary.md", "what-works.md"}
RESULTS = sorted(path.name for path in EXPERIMENTS.glob("*.md") if path.name not in NO_RESULTS)
FORM = ["Question", "Set-up", "Command", "Table", "Verdict", "What it means"]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("*/README.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]*))?\)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def headings(text: str, level: int) -> list[str]:
    return re.findall(rf"^{'#' * level} (.+)$", FENCED.sub("", text), re.MULTILINE)


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a page, where no two are equal."""
    every = [heading for level in range(1, 7) for heading in headings(text, level)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in every}


def verdict(text: str) -> str:
    return text.split("\n## Verdict\n")[1].split("\n## ")[0]


def page(name: str) -> str:
    return (EXPERIMENTS / name).read_text(encoding="utf-8")


def test_there_are_results() -> None:
    assert len(RESULTS) > 10


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_has_the_one_form(name: str) -> None:
    assert headings(page(name), 2) == FORM


@pytest.mark.parametrize("name", RESULTS)
def test_the_table_of_the_first_page_has_a_row_for_each_result_by_its_title(name: str) -> None:
    title = headings(page(name), 1)[0]
    rows = [line for line in page("README.md").splitlines() if line.startswith("|") and f"]({name})" in line]
    assert len(rows) == 1
    assert f"| {title} |" in rows[0]


@pytest.mark.parametrize("name", RESULTS)
def test_a_verdict_that_a_judge_gave_says_what_the_judge_is_worth(name: str) -> None:
    text = page(name)
    if re.search(r"judge\s+`[ab]`", text):
        assert "(glossary.md#judges-a-and-b)" in verdict(text)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_of_a_document_leads_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(FENCED.sub("", path.read_text(encoding="utf-8"))):
        to = (path.parent / target).resolve() if target else path
        assert to.exists(), target
        if anchor and to.suffix == ".md":
            assert anchor in anchors(to.read_text(encoding="utf-8")), f"{target}#{anchor}"
