"""IFBench's instructions, by its authors' checkers. What an instruction means is what its name and its prompt say."""

import logging
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from slhf_training.checks.instructions import (
    Instructions,
    InstructionsCheckSettings,
    follows,
    follows_loosely,
    unchecked,
)
from slhf_training.data.load import DataSettings, load
from tests.training.checks.hosts import needs_ifbench
from tests.training.checks.test_formats import agreement, one, rows, shared
from tests.training.shared_data import needs_shared_data

NEEDING_DATA = {
    "format:title_case",
    "ratio:stop_words",
    "words:keywords_specific_position",
    "words:start_verb",
    "words:words_position",
}
"""What NLTK's tokenizer, tagger and list of stop words decide; these are data that a download brings."""

WITHOUT_PACKAGE = """
import sys
sys.modules["if_verifiable"] = None  # Python's own way to say that there is none
from slhf_training.checks.instructions import unchecked
print("nltk" in sys.modules, unchecked(["words:palindrome", "startend:quotation"], [{}, {}]))
"""
LISTENING = """
import sys
asked = []
sys.addaudithook(lambda event, _: asked.append(event) if event.startswith(("socket.", "urllib.")) else None)
import nltk
nltk.data.path.clear()
from slhf_training.checks.instructions import unchecked
unchecked(["words:palindrome"], [{}])
print(asked, nltk.download.__module__)
"""

CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("count:conjunctions", {"small_n": 2}, "Tea and milk, but no sugar.", "Tea and milk and sugar."),
    ("count:word_count_range", {"min_words": 2, "max_words": 3}, "now three words", "one"),
    ("count:numbers", {"N": 2}, "From 7 to 12.", "From 7 to twelve."),
    ("ratio:sentence_type", {}, "It rains. It pours. Does it?", "It rains. Does it?"),
    ("sentence:keyword", {"word": "rain", "N": 2}, "Look up. The rain falls.", "The rain falls. Look up."),
    ("words:repeats", {"small_n": 2}, "a cat and a dog", "a cat, a dog and a mouse"),
    ("words:no_consecutive", {}, "Cats like dogs", "Cats catch dogs"),
    ("format:output_template", {}, "My Answer: a My Conclusion: b Future Outlook: c", "My Answer: a"),
    ("format:no_whitespace", {}, "Nothing", "Not a thing"),
    ("repeat:repeat_change", {"prompt_to_repeat": "Say it now"}, "Tell it now", "Say it now"),
    ("custom:date_format_list", {}, "1805-12-02, 1806-10-14", "2 December 1805"),
]


@needs_ifbench
@pytest.mark.parametrize(("kind", "arguments", "right", "wrong"), CASES, ids=[case[0] for case in CASES])
def test_an_instruction_is_followed_or_not(kind: str, arguments: dict[str, Any], right: str, wrong: str) -> None:
    assert unchecked([kind], [arguments]) == {}
    assert follows(kind, right, arguments)
    assert not follows(kind, wrong, arguments)
    assert not follows(kind, " \n", arguments)


@needs_ifbench
def test_loosely_a_line_around_the_answer_and_asterisks_are_forgiven() -> None:
    wrapped = "Sure, here it is:\n**Nothing**"
    assert not follows("format:no_whitespace", wrapped, {})
    assert follows_loosely("format:no_whitespace", wrapped, {})


@needs_ifbench
def test_a_row_may_ask_for_instructions_of_both_benchmarks() -> None:
    row = {"instruction_id_list": ["startend:quotation", "format:no_whitespace"], "kwargs": [{}, {}]}
    check = Instructions(InstructionsCheckSettings.model_validate({"kind": "instructions", **row}))
    assert check.passed('"Nothing"')
    assert not check.passed('"Not a thing"')
    assert not check.passed("Nothing")


@needs_ifbench
def test_what_needs_data_that_is_not_there_is_named_with_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    arguments: dict[str, dict[str, Any]] = {
        "ratio:stop_words": {"percentage": 20},
        "words:keywords_specific_position": {"keyword": "rain", "n": 1, "m": 2},
        "words:words_position": {"keyword": "rain"},
    }
    kinds = [*sorted(NEEDING_DATA), *(kind for kind, *_ in CASES)]
    given = [*(arguments.get(kind, {}) for kind in sorted(NEEDING_DATA)), *(given for _, given, *_ in CASES)]
    reasons = unchecked(kinds, given)
    assert reasons.keys() == NEEDING_DATA
    for kind in NEEDING_DATA - {"ratio:stop_words"}:
        assert "nltk has no punkt_tab" in reasons[kind]
        assert "python -m nltk.downloader punkt_tab" in reasons[kind]
    assert "averaged_perceptron_tagger_eng" in reasons["words:start_verb"]
    assert "python -m nltk.downloader stopwords" in reasons["ratio:stop_words"]


@needs_ifbench
@pytest.mark.parametrize(
    ("kind", "arguments", "reason"),
    [
        ("words:repeats", {}, "draws small_n by lot"),
        ("repeat:repeat_span", {"prompt_to_repeat": "a b c d", "n_start": 0, "n_end": 2}, "draws n_start by lot"),
        ("repeat:repeat_change", {}, "prompt_to_repeat"),
        ("words:repeats", {"small_n": 2, "many": 3}, "many"),
        ("count:palindromes", {}, "no program here knows it"),
    ],
)
def test_arguments_that_the_checkers_would_draw_by_lot_or_do_not_take_are_named(
    kind: str, arguments: dict[str, Any], reason: str
) -> None:
    """Their authors' program draws what is missing, and takes some zeros for missing: two runs would not agree."""
    before = random.getstate()
    assert reason in unchecked([kind], [arguments])[kind]
    assert random.getstate() == before
    row = {"kind": "instructions", "instruction_id_list": [kind], "kwargs": [arguments]}
    with pytest.raises(ValidationError, match=f"there is no check for {kind} .*{reason}"):
        InstructionsCheckSettings.model_validate(row)


@needs_ifbench
def test_an_answer_on_which_a_checker_fails_does_not_follow() -> None:
    """It looks at the letter behind the quotation marks that open a quotation."""
    assert not follows("format:quote_unquote", "...", {})


def test_without_the_package_its_kinds_name_it_and_nothing_of_it_is_imported() -> None:
    said = subprocess.run([sys.executable, "-c", WITHOUT_PACKAGE], capture_output=True, text=True, check=True).stdout
    assert said.startswith("False {'words:palindrome': ")
    assert re.search(r"(if_verifiable|nltk) is not installed: pip install 'slhf-training\[ifbench\]'", said)
    assert "startend:quotation" not in said


@needs_ifbench
def test_nothing_is_fetched_unasked() -> None:
    """Else a machine with a network would check other rows than one without, and one behind a wall would wait."""
    done = subprocess.run([sys.executable, "-c", LISTENING], capture_output=True, text=True, check=True)
    assert done.stdout == "[] nltk.downloader\n"


def test_rows_without_a_check_are_counted_by_kind_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    german = {"prompt": "a", "instruction_id_list": ["language:response_language"], "kwargs": [{"language": "de"}]}
    quoted = {"prompt": "b", "instruction_id_list": ["startend:quotation"], "kwargs": [{}]}
    file = rows(tmp_path, german, {**german, "prompt": "c"}, quoted)
    with caplog.at_level(logging.WARNING):
        found = load(DataSettings(files=(file,), format="ifeval"))
    assert sum(example.check is None for example in found) == 2
    assert any("language:response_language (2 rows)" in line and str(file) in line for line in caplog.messages)


@needs_ifbench
@needs_shared_data
@pytest.mark.parametrize(("format", "key"), [("ifeval", "follow_all"), ("ifeval_loose", "follow_all_loose")])
def test_real_flags_are_the_same(format: str, key: str) -> None:
    """24 of 240 need NLTK's data, which may be here, and the arguments of one are drawn by lot."""
    examples = shared("ifbench_drafts", format, "ifbench")
    assert sum(example.check is not None for example in examples) in range(215, 240)
    assert agreement("ifbench_drafts", key, examples) > 0.99


@needs_ifbench
def test_a_draft_finds_its_arguments_in_its_task(tmp_path: Path) -> None:
    task = {"prompt": "p", "key": "1", "instruction_id_list": ["words:repeats"], "kwargs": [{"small_n": 2, "N": None}]}
    tasks = rows(tmp_path, task, name="tasks.jsonl")
    draft = {"prompt": "p", "key": "1", "instruction_id_list": ["words:repeats"], "draft": "a a a", "model": "m"}
    found = one(tmp_path, draft, format="ifeval_loose", tasks=tasks)
    assert found.check is not None
    assert found.draft == "a a a"
