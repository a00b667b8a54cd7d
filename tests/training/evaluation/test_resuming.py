"""What is finished is never written or judged again: after a kill, a torn line, and when a model has changed."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from slhf_training.errors import DataError
from slhf_training.evaluation.answers import Store, with_drafts
from slhf_training.evaluation.run import ANSWERS, evaluate
from slhf_training.evaluation.study import source_name
from slhf_training.preference.mixture import MixtureSettings
from slhf_training.preference.reward import RewardSettings
from tests.training.evaluation.fakes import QUESTIONS, FakeModels, Longer, jsonl, settings

ROOT = Path(__file__).resolve().parents[3]
ROUNDS = {"rounds": {"leaders": ["base"], "followers": ["slhf"], "rounds": 3}}
KILLED = """
import os, signal, sys
from pathlib import Path
from slhf_training.evaluation.run import evaluate
from tests.training.evaluation.fakes import FakeModels, Longer, marked, settings

left = int(sys.argv[2])

def reply(name):
    def told(task, draft):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return marked(name)(task, draft)
    return told

class Killing(Longer):
    def __call__(self, chats, first, second):
        os.kill(os.getpid(), signal.SIGKILL)

evaluate(settings(Path(sys.argv[1]), judge_batch_size=4, **{sections}), opened=FakeModels(reply), judge=Killing().of)
"""


def run_and_be_killed(folder: Path, after: int) -> None:
    """Killed by SIGKILL when that many answers are written, or at the judge's first question."""
    script = KILLED.replace("{sections}", repr(ROUNDS))
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(after)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def keys(folder: Path) -> list[str]:
    lines = (folder / "out" / ANSWERS).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["key"] for line in lines]


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """3 prompts: 3 drafts and 9 refinements. Killed after 5, the next run writes the other 7."""
    run_and_be_killed(tmp_path, after=5)
    kept = keys(tmp_path)
    assert len(kept) == 5
    models, judge = FakeModels(), Longer()
    report = evaluate(settings(tmp_path, **ROUNDS), opened=models, judge=judge.of)
    assert sum(models.written.values()) == 7
    assert keys(tmp_path)[:5] == kept
    assert set(Counter(keys(tmp_path)).values()) == {1}
    whole = evaluate(settings(tmp_path / "fresh", **ROUNDS), opened=FakeModels(), judge=Longer().of)
    assert report["sections"] == whole["sections"]


def test_a_run_killed_while_it_is_judged_writes_nothing_again(tmp_path: Path) -> None:
    run_and_be_killed(tmp_path, after=100)
    models = FakeModels()
    evaluate(settings(tmp_path, **ROUNDS), opened=models, judge=Longer().of)
    assert models.opened == []


def test_a_finished_run_asks_nobody(tmp_path: Path) -> None:
    first = evaluate(settings(tmp_path, **ROUNDS), opened=FakeModels(), judge=Longer().of)
    models, judge = FakeModels(), Longer()
    second = evaluate(settings(tmp_path, **ROUNDS), opened=models, judge=judge.of)
    assert (models.opened, judge.asked) == ([], 0)
    assert second["sections"] == first["sections"]


def test_judgements_outlive_a_judge_that_fails(tmp_path: Path) -> None:
    class Failing(Longer):
        def __call__(self, chats, first, second):  # type: ignore[no-untyped-def]
            if self.asked:
                raise InterruptedError
            return super().__call__(chats, first, second)

    how = settings(tmp_path, judge_batch_size=2, **ROUNDS)
    with pytest.raises(InterruptedError):
        evaluate(how, opened=FakeModels(), judge=Failing().of)
    judge = Longer()
    evaluate(how, opened=FakeModels(), judge=judge.of)
    assert judge.asked == 3 * 3 - 2  # three rounds of three prompts, two were kept


def test_a_judge_whose_files_have_changed_is_another_one(tmp_path: Path) -> None:
    weights = tmp_path / "judge"
    weights.mkdir()
    one = RewardSettings(kind="reward", model=weights)
    mixed = MixtureSettings.model_validate({"kind": "mixture", "sources": [{"preference": one.model_dump()}]})
    before = source_name(one), source_name(mixed)
    assert before == (source_name(one), source_name(mixed))
    (weights / "heads").write_text("new")
    assert source_name(one) != before[0]
    assert source_name(mixed) != before[1]


def test_a_model_that_has_changed_writes_anew(tmp_path: Path) -> None:
    """The Follower is another: the drafts stay."""
    evaluate(settings(tmp_path, **ROUNDS), opened=FakeModels(), judge=Longer().of)
    (tmp_path / "slhf" / "weights").write_text("other")
    models = FakeModels()
    evaluate(settings(tmp_path, **ROUNDS), opened=models, judge=Longer().of)
    assert models.written == {"slhf": 9}


def test_refinements_follow_a_draft_that_has_changed(tmp_path: Path) -> None:
    drafts = [{"prompt": question, "output": "old"} for question in QUESTIONS]
    jsonl(tmp_path / "drafts.jsonl", drafts)
    how = settings(
        tmp_path,
        models={"gpt": {"drafts": str(tmp_path / "drafts.jsonl")}, "slhf": {"bundle": str(tmp_path / "slhf")}},
        refinement={"leaders": ["gpt"], "followers": ["slhf"]},
    )
    evaluate(how, opened=FakeModels(), judge=Longer().of)
    jsonl(tmp_path / "drafts.jsonl", [{**drafts[0], "output": "new"}, *drafts[1:]])
    models = FakeModels()
    evaluate(how, opened=models, judge=Longer().of)
    assert models.written == {"slhf": 1}


def test_another_sampling_or_precision_writes_anew_and_another_batch_size_does_not(tmp_path: Path) -> None:
    evaluate(settings(tmp_path, **ROUNDS), opened=FakeModels(), judge=Longer().of)
    both = ["base", "slhf"]
    for changed, expected in (
        ({"batch_size": 3}, []),
        ({"temperature": 0.5}, both),
        ({"cpu_quantization": "int8"}, both),
    ):
        models = FakeModels()
        evaluate(settings(tmp_path, generation=changed, **ROUNDS), opened=models, judge=Longer().of)
        assert models.opened == expected


def test_each_model_is_opened_as_seldom_as_can_be(tmp_path: Path) -> None:
    """base drafts, slhf drafts and refines both, base refines slhf's draft: three times, not once for each chain."""
    models = FakeModels()
    both = {"leaders": ["base", "slhf"], "followers": ["base", "slhf"]}
    evaluate(settings(tmp_path, refinement=both), opened=models, judge=Longer().of)
    assert models.opened == ["base", "slhf", "base"]


def test_whoever_waits_for_nobody_is_opened_first(tmp_path: Path) -> None:
    """base drafts and refines, slhf's drafts too: once slhf has drafted, base can do all of it at once."""
    models = FakeModels()
    players = ["base > base > base", "slhf > base"]
    evaluate(settings(tmp_path, round_robin={"players": players}), opened=models, judge=Longer().of)
    assert models.opened == ["slhf", "base"]


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "store.jsonl"
    path.write_bytes(b'{"key": "a", "text": "\xc3\xa4"}\n{"key": "b", "te')
    with Store(path) as store:
        assert len(store) == 1
        store.append({"key": "c"})
    with Store(path) as store:
        assert (store.get("a"), store.get("b"), store.get("c")) == ({"key": "a", "text": "ä"}, None, {"key": "c"})


def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text("milk\neggs\n")
    with pytest.raises(DataError, match="notes.jsonl:1"):
        Store(path)
    assert path.read_text() == "milk\neggs\n"


def test_a_chain_brings_its_drafts_first() -> None:
    assert with_drafts([("a", "b", "b"), ("a", "c")]) == [("a",), ("a", "b"), ("a", "c"), ("a", "b", "b")]
