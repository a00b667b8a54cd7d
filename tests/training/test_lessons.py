"""Lessons out of checked data: right drafts stay, wrong ones become a sample that passes, or the reference."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from slhf import Bundle, write_bundle
from slhf.readings import Readings
from slhf_training.errors import DataError, SettingsError
from slhf_training.evaluation.generation import Task
from slhf_training.lessons.run import lessons
from slhf_training.lessons.settings import LessonsSettings
from slhf_training.lessons.targets import nearest, styled
from tests.training.evaluation.fakes import FakeModels, Reply


def row(prompt: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "check": {"kind": "number", "answer": answer}, **more}


DRAFTS = [
    row("What is 1 + 1?", "2", draft="It is 2.", reference="One and one make 2."),
    row("What is 1 + 1?", "2", draft="It is 3.", reference="One and one make 2."),
    row("What is 2 + 2?", "4", draft="It is 5.", reference="Two and two make 4."),
    row("What is 3 + 3?", "6", draft="It is 7."),
]


def settings(directory: Path, rows: Sequence[Mapping[str, Any]], **changes: Any) -> LessonsSettings:
    data = directory / "data.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    given = {"output_dir": str(directory / "out"), **changes}
    for role in ("leader", "follower"):
        if role in given:
            given[role] = [{"data": {"files": [str(data)]}, **given[role]}]
    return LessonsSettings.model_validate(given)


def written(file: Path) -> list[tuple[str, str | None, str]]:
    found = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    rows = [(one["prompt"][-1]["content"], one.get("draft"), one["target"]) for one in found]
    return sorted(rows, key=str)


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    directory = tmp_path / "bundle"
    directory.mkdir()
    (directory / "config.json").write_text("{}", encoding="utf-8")
    write_bundle(directory, Bundle(name="sampled"))
    return str(directory)


def answers(*texts: str) -> FakeModels:
    """Sample after sample."""

    def reply(name: str) -> Reply:
        numbers: dict[Any, int] = {}

        def one(task: Task, draft: str | None) -> str:
            key = task.chat[-1]["content"], draft
            numbers[key] = numbers.get(key, -1) + 1
            return texts[numbers[key] % len(texts)]

        return one

    return FakeModels(reply)


def test_right_drafts_stay_and_wrong_ones_become_the_reference(tmp_path: Path) -> None:
    assert written(lessons(settings(tmp_path, DRAFTS, follower={}))) == [
        ("What is 1 + 1?", "It is 2.", "It is 2."),
        ("What is 1 + 1?", "It is 3.", "One and one make 2."),
        ("What is 2 + 2?", "It is 5.", "Two and two make 4."),
    ]


def test_a_sample_that_passes_comes_before_the_reference_and_the_nearest_of_them_is_learnt(
    tmp_path: Path, bundle: str
) -> None:
    models = answers("It may be 9.", "I have counted it: it is 4, no, 6.", "It is 6.")
    found = written(lessons(settings(tmp_path, DRAFTS, follower={}, samples={"bundle": bundle, "count": 3}), models))
    assert ("What is 3 + 3?", "It is 7.", "It is 6.") in found
    assert ("What is 2 + 2?", "It is 5.", "Two and two make 4.") in found
    assert len(models.opened) == 1


def test_without_references_a_wrong_draft_that_no_sample_mends_teaches_nothing(tmp_path: Path, bundle: str) -> None:
    asked = settings(tmp_path, DRAFTS, follower={"references": False}, samples={"bundle": bundle, "count": 2})
    assert written(lessons(asked, answers("It is 6."))) == [
        ("What is 1 + 1?", "It is 2.", "It is 2."),
        ("What is 3 + 3?", "It is 7.", "It is 6."),
    ]


def test_a_reference_that_does_not_pass_is_no_target(tmp_path: Path) -> None:
    rows = [row("What is 1 + 1?", "2", draft="3", reference="It is 4."), row("Why 2?", "2", draft="2")]
    assert written(lessons(settings(tmp_path, rows, follower={}))) == [("Why 2?", "2", "2")]


def test_the_leader_learns_samples_that_pass_or_references(tmp_path: Path, bundle: str) -> None:
    asked = settings(tmp_path, DRAFTS[1:], leader={}, samples={"bundle": bundle, "count": 1})
    assert written(lessons(asked, answers("It is 6."))) == [
        ("What is 1 + 1?", None, "One and one make 2."),
        ("What is 2 + 2?", None, "Two and two make 4."),
        ("What is 3 + 3?", None, "It is 6."),
    ]


def test_references_and_samples_can_be_the_drafts(tmp_path: Path, bundle: str) -> None:
    asked = settings(tmp_path, DRAFTS, follower={"drafts": "reference"})
    assert written(lessons(asked)) == [
        ("What is 1 + 1?", "One and one make 2.", "One and one make 2."),
        ("What is 2 + 2?", "Two and two make 4.", "Two and two make 4."),
    ]
    sampled = settings(tmp_path, DRAFTS[2:3], follower={"drafts": "sampled"}, samples={"bundle": bundle, "count": 2})
    assert written(lessons(sampled, answers("It is 4.", "It is 8."))) == [
        ("What is 2 + 2?", "It is 4.", "It is 4."),
        ("What is 2 + 2?", "It is 8.", "It is 4."),
    ]


def test_right_and_wrong_drafts_are_limited_apart(tmp_path: Path) -> None:
    rows = [row(f"What is {n} + 0?", str(n), draft=str(n + n % 2), reference=f"It is {n}.") for n in range(20)]
    found = written(lessons(settings(tmp_path, rows, follower={"right": 3, "wrong": 5})))
    assert sum(draft == target for _, draft, target in found) == 3
    assert sum(draft != target for _, draft, target in found) == 5


def test_the_same_seed_writes_the_same_file(tmp_path: Path) -> None:
    rows = [row(f"What is {n} + 0?", str(n), draft=str(n + n % 2), reference=f"It is {n}.") for n in range(20)]
    asked = settings(tmp_path, rows, follower={"right": 3, "wrong": 5})
    first = lessons(asked).read_bytes()
    assert lessons(asked).read_bytes() == first
    assert lessons(asked.model_copy(update={"seed": 1})).read_bytes() != first


def test_samples_that_were_written_are_not_written_again(tmp_path: Path, bundle: str) -> None:
    asked = settings(tmp_path, DRAFTS, follower={}, samples={"bundle": bundle, "count": 2})
    lessons(asked, answers("It is 6."))
    again = answers("It is 6.")
    lessons(asked, again)
    assert again.opened == []


def test_a_leaders_code_stands_in_a_fence_and_a_drafts_target_does_not(tmp_path: Path) -> None:
    check = {"kind": "tests", "entry_point": "one", "test_program": "assert one() == 1"}
    rows = [
        {"prompt": "Write one().", "check": check, "draft": "def one(): return 2", "reference": "def one():  return 1"}
    ]
    found = written(lessons(settings(tmp_path, rows, leader={}, follower={})))
    code = "def one():\n    return 1"
    assert found == [
        ("Write one().", "def one(): return 2", code),
        ("Write one().", None, f"```python\n{code}\n```"),
    ]


def test_nothing_to_learn_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no lesson is left"):
        lessons(settings(tmp_path, [row("What is 1 + 1?", "2", draft="3")], follower={}))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, "leader and follower"),
        ({"follower": {"drafts": "sampled"}}, "needs samples"),
        ({"follower": {"thoughts": True}}, "need samples"),
    ],
)
def test_settings_that_cannot_work_name_themselves(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises((SettingsError, ValueError), match=named):
        settings(tmp_path, DRAFTS, **changes)


def test_the_nearest_answer_keeps_most_of_the_draft() -> None:
    assert nearest("a b c d", ["x y", "a b c e", "d c b a"]) == "a b c e"
    assert nearest(None, ["long answer", "short"]) == "short"


def test_code_keeps_its_comments_and_what_does_not_parse_stays() -> None:
    assert styled("def f( a ):\n  return(a)") == "def f(a):\n    return a"
    assert styled("x=1 # one") == "x=1 # one"
    assert styled("def f(:") == "def f(:"


TWO = [row("What is 1 + 1?", "2", draft="It is 2."), row("What is 1 + 1?", "2", draft="It is 3.")]


def thought(directory: Path, bundle: str, *own: str, **changes: Any) -> list[tuple[str | None, str]]:
    """Drafts and what the server puts in their place, where the Leader answers so, one answer after the other."""
    samples = {"bundle": bundle, "count": len(own)}
    asked = settings(directory, TWO, follower={"thoughts": True, **changes}, samples=samples)
    rows = map(json.loads, lessons(asked, answers(*own)).read_text(encoding="utf-8").splitlines())
    return sorted((one["draft"], _counted(one)) for one in rows)


def _counted(row: Mapping[str, Any]) -> str:
    """The own answer that outvotes the draft, or nothing. A target holds nothing but the thoughts."""
    thoughts = row["target"].removeprefix("<think>\n").removesuffix("\n</think>")
    readings = Readings.parse(thoughts)
    assert readings is not None
    assert len(readings.own) == len(row["own"])
    chosen = readings.chosen()
    return "" if chosen is None else row["own"][chosen]


def test_own_answers_stand_beside_the_draft_and_are_as_many_as_were_asked_for(tmp_path: Path, bundle: str) -> None:
    samples = {"bundle": bundle, "count": 4}
    asked = settings(tmp_path, TWO, follower={"thoughts": True, "own_answers": 3}, samples=samples)
    rows = [json.loads(line) for line in lessons(asked, answers("2!", "2!!", "2?", "2??")).read_text().splitlines()]
    assert len(rows) == 2
    for one in rows:
        assert len(one["own"]) == 3
        assert set(one["own"]) < {"2!", "2!!", "2?", "2??"}


def test_without_own_answers_a_result_is_no_lesson(tmp_path: Path, bundle: str) -> None:
    samples = {"bundle": bundle, "count": 4}
    asked = settings(tmp_path, TWO, follower={"thoughts": True, "own_answers": 0}, samples=samples)
    with pytest.raises(DataError, match="no lesson is left"):
        lessons(asked, answers("2!", "2!!", "2?", "2??"))


def test_a_first_look_reads_the_drafts_result_right_or_wrong_and_lets_every_other_draft_stay(
    tmp_path: Path, bundle: str
) -> None:
    data = [*TWO, row("What is 2 + 2?", "4", draft="It is 5."), {"prompt": "Why?", "draft": "Because."}]
    follower = {"thoughts": True, "first_looks": 9, "right": 0, "wrong": 0}
    asked = settings(tmp_path, data, follower=follower, samples={"bundle": bundle, "count": 1})
    rows = [json.loads(line) for line in lessons(asked, answers("2!")).read_text(encoding="utf-8").splitlines()]
    assert not [one for one in rows if "own" in one]
    found = {one["draft"]: one["target"] for one in rows}
    assert found["It is 5."] == "<think>\nThe draft: 5\n</think>"
    assert found["Because."] == "<think>\nIt stays.\n</think>"
    assert len(rows) == 3  # one for each prompt
    assert found.get("It is 2.", "<think>\nThe draft: 2\n</think>") == "<think>\nThe draft: 2\n</think>"


def test_a_first_look_without_thoughts_is_refused(tmp_path: Path, bundle: str) -> None:
    with pytest.raises(ValidationError, match="first_looks are thoughts"):
        settings(tmp_path, TWO, follower={"first_looks": 9}, samples={"bundle": bundle, "count": 1})


def test_with_thoughts_a_wrong_draft_changes_where_two_own_answers_agree_and_a_right_one_stays(
    tmp_path: Path, bundle: str
) -> None:
    (kept, mended) = thought(tmp_path, bundle, "2!", "2!!")
    assert kept == ("It is 2.", "")
    assert mended in [("It is 3.", "2!"), ("It is 3.", "2!!")]


@pytest.mark.parametrize(
    ("own", "learnt"),
    [
        (("5!", "5!!"), []),  # against the right draft, and not right either
        (("2!", "5!"), [("It is 2.", "")]),  # of the wrong draft nothing is certain
        (("3!", "3!!"), []),  # the wrong draft seems right
    ],
)
def test_with_thoughts_nothing_is_learnt_where_they_do_not_lead_to_what_is_right(
    tmp_path: Path, bundle: str, own: tuple[str, ...], learnt: list[tuple[str, str]]
) -> None:
    if learnt:
        assert thought(tmp_path, bundle, *own) == learnt
    else:
        with pytest.raises(DataError, match="no lesson is left"):
            thought(tmp_path, bundle, *own)


def test_a_draft_that_the_leader_wrote_is_not_its_own_thought(tmp_path: Path, bundle: str) -> None:
    found = thought(tmp_path, bundle, "2!", "2!!", "5!", drafts="sampled")
    assert ("5!", "2!") in found or ("5!", "2!!") in found
    samples = {"bundle": bundle, "count": 1}
    alone = settings(tmp_path, TWO, follower={"thoughts": True, "drafts": "sampled"}, samples=samples)
    with pytest.raises(DataError, match="no lesson is left"):
        lessons(alone, answers("4!"))


def test_half_of_the_right_drafts_are_ones_that_own_answers_doubt(tmp_path: Path, bundle: str) -> None:
    rows = [row(f"What is {n} + 0?", str(n), draft=f"It is {n}.") for n in range(40)]
    asked = {"follower": {"thoughts": True, "right": 10}, "samples": {"bundle": bundle, "count": 1}}

    def one(task: Task, draft: str | None) -> str:
        number = int(task.chat[-1]["content"].split()[2])
        return f"I say {number}." if number % 2 else "I say 99."

    found = written(lessons(settings(tmp_path, rows, **asked), FakeModels(lambda name: one)))
    assert sum("[1] 99" in target for _, _, target in found) == 5
    assert len(found) == 10


def test_checks_that_nobody_can_think_about_are_named(tmp_path: Path, bundle: str) -> None:
    check = {"kind": "schema", "schema": {"type": "object"}}
    rows = [{"prompt": "Write JSON.", "check": check, "draft": "{}", "source": "ours"}]
    asked = settings(tmp_path, rows, follower={"thoughts": True}, samples={"bundle": bundle, "count": 2})
    with pytest.raises(DataError, match="ours.*a check of kind schema"):
        lessons(asked, answers("{}"))


def test_what_has_no_check_stays(tmp_path: Path, bundle: str) -> None:
    rows = [{"prompt": "Say something.", "reference": "Something."}]
    samples = {"bundle": bundle, "count": 1}
    asked = settings(tmp_path, rows, follower={"thoughts": True, "drafts": "reference"}, samples=samples)
    kept = ("Say something.", "Something.", "<think>\nIt stays.\n</think>")
    assert written(lessons(asked, answers("Else."))) == [kept]


def test_of_instructions_the_thought_is_which_of_them_the_draft_follows(tmp_path: Path, bundle: str) -> None:
    kinds = ["punctuation:no_comma", "keywords:existence"]
    given = [{}, {"keywords": ["sun", "sea"]}]
    check = {"kind": "instructions", "instruction_id_list": kinds, "kwargs": given}
    drafts = ["Sun and sea.", "Sun, sea."]
    rows = [{"prompt": "Write without commas of sun and sea.", "check": check, "draft": draft} for draft in drafts]
    asked = settings(tmp_path, rows, follower={"thoughts": True}, samples={"bundle": bundle, "count": 1})
    thought = "<think>\nno comma: {}\nexistence (sun, sea): yes\nIt {}.\n</think>{}"
    assert [target for _, _, target in written(lessons(asked, answers("Sea and sun.")))] == [
        thought.format("yes", "stays", ""),
        thought.format("no", "changes", "\nSea and sun."),
    ]


def test_of_a_program_the_thought_is_whether_it_passes(tmp_path: Path, bundle: str) -> None:
    check = {"kind": "tests", "entry_point": "twice", "test_program": "assert twice(2) == 4 and twice(3) == 6"}
    kept, mended, hidden = (f"def twice(x):\n    return x {rest}" for rest in ("+ x", "+ 1", "** 2"))
    own = "```python\ndef twice(x):\n    return 2 * x\n```"
    rows = [{"prompt": "Double it.", "check": check, "draft": one} for one in (kept, mended)]
    rows.append({"prompt": "Double that.", "check": check, "draft": hidden})
    asked = settings(tmp_path, rows, follower={"thoughts": True}, samples={"bundle": bundle, "count": 1})
    changed = f"<think>\nIt changes.\n</think>\n{own}"
    assert written(lessons(asked, answers(f"Here it is:\n{own}\nThat doubles it."))) == [
        ("Double it.", mended, changed),
        ("Double it.", kept, "<think>\nIt stays.\n</think>"),
        ("Double that.", hidden, changed),
    ]


def test_turns_stand_before_what_the_leader_is_asked_and_not_in_what_is_learnt(tmp_path: Path, bundle: str) -> None:
    turns = [{"role": "system", "content": "Be brief."}]
    seen = []

    def one(task: Task, draft: str | None) -> str:
        seen.append(([turn["content"] for turn in task.chat], draft))
        return "It is 2."

    samples = {"bundle": bundle, "count": 1, "turns": turns}
    asked = settings(tmp_path, TWO, leader={}, follower={}, samples=samples)
    rows = map(json.loads, lessons(asked, FakeModels(lambda name: one)).read_text("utf-8").splitlines())
    assert (["Be brief.", "What is 1 + 1?"], None) in seen
    assert (["What is 1 + 1?"], "It is 3.") in seen
    assert all(len(one["prompt"]) == 1 for one in rows)


def test_the_leader_is_asked_once_for_all_drafts_of_a_prompt(tmp_path: Path, bundle: str) -> None:
    models = answers("2!", "2!!")
    asked = settings(tmp_path, TWO, follower={"thoughts": True}, samples={"bundle": bundle, "count": 2})
    lessons(asked, models)
    assert models.written == {"samples": 2}
