"""docs/training-settings.md is what the code says, and its links lead somewhere."""

import re

from scripts.settings_reference import PAGE, page


def test_the_page_is_what_the_code_says() -> None:
    """Else: python scripts/settings_reference.py."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_part_that_a_key_names_is_shown() -> None:
    text = page()
    headings = {heading.lower() for heading in re.findall(r"^###? (\w+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\(#(\w+)\)", text)) <= headings


def test_a_key_has_its_type_its_limits_its_default_and_its_meaning() -> None:
    text = page()
    assert "| `importance_cap` | number above `0` or null | `2.0` | A token counts by min(" in text
    assert (
        '| `weights` | `separate`, `shared`, `full` | `"separate"` | Two adapters, one adapter for both roles,' in text
    )
    assert "| `lessons` | list of path | **needed** | JSONL(.gz)" in text
