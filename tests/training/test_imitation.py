"""A tiny model learns given targets, in one adapter for both roles; frozen lower layers change nothing."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model

from slhf import OwnAnswers, read_bundle
from slhf.turns import follower_turn, with_own_answers
from slhf_training.cli import main
from slhf_training.errors import DataError, SettingsError
from slhf_training.fit.run import last_checkpoint
from slhf_training.imitation.run import BUNDLE, HalvedModel, LessonRow, read_lessons, supervised_examples
from slhf_training.models.prompts import Prompts
from slhf_training.types import Chat
from tests.training import tiny

ROWS = [
    {"prompt": "which", "target": "A B"},
    {"prompt": "which", "draft": "A B", "target": "A B"},
    {"prompt": "which", "draft": "C C", "target": "B A"},
]
LAYERS = ["q_proj", "v_proj", "up_proj", "down_proj"]


def write_model(directory: Path) -> Path:
    tiny.model().save_pretrained(directory)
    tiny.tokenizer().save_pretrained(directory)
    return directory


def configuration(directory: Path, **changes: Any) -> Path:
    lessons = directory / "lessons.jsonl"
    lessons.write_text("".join(json.dumps(row) + "\n" for row in ROWS * 4), encoding="utf-8")
    settings: dict[str, Any] = {
        "model": str(write_model(directory / "model")),
        "output_dir": "run",
        "lessons": ["lessons.jsonl"],
        "follower_turn": "improve it",
        "dtype": "float32",
        "lora": {"r": 8, "alpha": 16, "target_modules": LAYERS, "layers": [1, 2]},
        "optimisation": {"steps": 60, "batch_size": 6, "learning_rate": 3e-2},
        "save_every": 30,
        "report_to": [],
        "sampling": {"temperature": 0.5, "max_tokens": 64},
    }
    file = directory / "imitate.yaml"
    file.write_text(yaml.safe_dump(settings | changes), encoding="utf-8")
    return file


def greedy(bundle: Path, row: dict[str, str]) -> str:
    prompts = Prompts(tiny.tokenizer(), "improve it")
    model = PeftModel.from_pretrained(tiny.model(), bundle / "policy").eval()
    chat = LessonRow.model_validate({**row, "target": "x"}).chat()
    ids = list(prompts.leader(chat) if "draft" not in row else prompts.follower(chat, prompts.ids(row["draft"])))
    said: list[int] = []
    while len(said) < 4 and (not said or said[-1] != tiny.END):
        with torch.no_grad():
            said.append(int(model(input_ids=torch.tensor([ids + said])).logits[0, -1].argmax()))
    return prompts.text(tuple(said))


def test_both_roles_say_what_they_were_taught(tmp_path: Path) -> None:
    assert main(["imitate", str(configuration(tmp_path)), "--name", "taught"]) == 0
    bundle = tmp_path / "run" / BUNDLE
    manifest = read_bundle(bundle)
    assert (manifest.sampling.temperature, manifest.sampling.max_tokens) == (0.5, 64)
    assert (manifest.name, manifest.trained) == ("taught", "imitation")
    assert manifest.leader == manifest.follower
    assert not manifest.keeps_by_silence
    for row in ROWS:
        assert greedy(bundle, row).split() == row["target"].split()


def test_a_bundle_that_is_taught_thoughts_alone_for_a_draft_keeps_by_silence(tmp_path: Path) -> None:
    lessons = [{"prompt": "which", "draft": "A B", "target": "<think>\nIt stays.\n</think>"}, ROWS[0]]
    file = configuration(tmp_path, optimisation={"steps": 1, "batch_size": 2})
    (tmp_path / "lessons.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lessons), encoding="utf-8")
    assert main(["imitate", str(file), "--name", "taught"]) == 0
    assert read_bundle(tmp_path / "run" / BUNDLE).keeps_by_silence


def test_own_answers_stand_in_the_prompt_as_the_server_will_put_them() -> None:
    prompts = Prompts(tiny.tokenizer(), "improve it")
    row = {"prompt": "which", "draft": "C C", "target": "B A"}
    alone, beside = (
        supervised_examples([LessonRow.model_validate(row | own)], prompts, tiny.END, 99)[0]
        for own in ({}, {"own": ["A", "B"]})
    )
    turn = with_own_answers("improve it", ["A", "B"])
    chat: Chat = [{"role": "user", "content": "which"}]
    assert beside.prompt == Prompts(tiny.tokenizer(), turn).follower(chat, prompts.ids("C C"))
    assert beside.prompt != alone.prompt
    assert beside.target == alone.target


def test_an_instruction_stands_in_the_prompt_as_the_server_will_put_it() -> None:
    prompts = Prompts(tiny.tokenizer(), "improve it")
    row = {"prompt": "which", "draft": "C C", "target": "B A", "instruction": "A A"}
    wished = supervised_examples([LessonRow.model_validate(row)], prompts, tiny.END, 99)[0]
    turn = Prompts(tiny.tokenizer(), follower_turn("improve it", "A A"))
    assert wished.prompt == turn.follower([{"role": "user", "content": "which"}], prompts.ids("C C"))
    assert wished.prompt != prompts.follower([{"role": "user", "content": "which"}], prompts.ids("C C"))


@pytest.mark.parametrize("rest", [{}, {"draft": "C C", "own": ["A"]}, {"draft": "C C", "instruction": ""}])
def test_an_instruction_that_no_request_would_bring_is_refused(tmp_path: Path, rest: dict[str, object]) -> None:
    file = tmp_path / "lessons.jsonl"
    file.write_text(json.dumps({"prompt": "which", "target": "B A", "instruction": "A A"} | rest), encoding="utf-8")
    with pytest.raises(DataError, match=r"lessons\.jsonl:1: .*instruction"):
        list(read_lessons([file]))


def test_a_bundle_writes_as_many_own_answers_as_it_has_learnt_with(tmp_path: Path) -> None:
    lessons = [ROWS[0], {"prompt": "which", "draft": "A B", "own": ["A", "B"], "target": "A B"}]
    step = {"optimisation": {"steps": 1, "batch_size": 2}}

    def taught(file: Path) -> int:
        (tmp_path / "lessons.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lessons), encoding="utf-8")
        return main(["imitate", str(file), "--name", "taught"])

    assert taught(configuration(tmp_path, **step, own_answers={"count": 2, "max_tokens": 9, "temperature": 0.5})) == 0
    assert read_bundle(tmp_path / "run" / BUNDLE).own_answers == OwnAnswers(count=2, max_tokens=9, temperature=0.5)


def test_a_file_without_lessons_is_named_as_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = configuration(tmp_path)
    (tmp_path / "lessons.jsonl").write_text("", encoding="utf-8")
    assert main(["imitate", str(file), "--name", "taught"]) == 1
    assert "none of 0 rows" in capsys.readouterr().err


@pytest.mark.parametrize("count", [None, 1, 3])
def test_another_number_of_own_answers_than_the_lessons_have_is_refused(
    tmp_path: Path, count: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    own = None if count is None else {"count": count, "max_tokens": 9, "temperature": 0.5}
    file = configuration(tmp_path, own_answers=own)
    row = {"prompt": "which", "draft": "A B", "own": ["A", "B"], "target": "A B"}
    (tmp_path / "lessons.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert main(["imitate", str(file), "--name", "taught"]) == 1
    assert "own_answers: the lessons have up to 2 own answers" in capsys.readouterr().err


def test_only_the_layers_that_were_named_have_an_adapter(tmp_path: Path) -> None:
    assert main(["imitate", str(configuration(tmp_path, optimisation={"steps": 1, "batch_size": 4}))]) == 0
    adapter = json.loads((tmp_path / "run" / BUNDLE / "policy" / "adapter_config.json").read_text(encoding="utf-8"))
    assert adapter["layers_to_transform"] == [1]


@pytest.mark.parametrize("first", [0, 1])
def test_two_halves_say_what_the_whole_says(first: int) -> None:
    torch.manual_seed(0)
    student = get_peft_model(tiny.model(), LoraConfig(r=4, target_modules=LAYERS, init_lora_weights=False))
    ids = (7, 1, 2, 3, 4, 5)
    halved = HalvedModel(student.get_base_model(), first)
    with torch.no_grad():
        whole = student(input_ids=torch.tensor([ids])).logits[0, 2:-1]
        halves = halved.logits(halved.states(ids), 3)
    torch.testing.assert_close(halves, whole)


def test_halving_leaves_the_model_as_it_was() -> None:
    model = tiny.model()
    HalvedModel(model, 1)
    assert len(model.model.layers) == 2
    assert not isinstance(model.model.norm, torch.nn.Identity)


def test_a_run_that_was_killed_goes_on_to_the_same_adapter(tmp_path: Path) -> None:
    """The second run begins with the first one's checkpoint of step 30."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for directory in (whole, resumed):
        directory.mkdir()
        assert main(["imitate", str(configuration(directory))]) == 0
    for leftover in ("bundle", "checkpoint-60"):
        (resumed / "run" / leftover).rename(resumed / leftover)
    assert (last_checkpoint(resumed / "run") or Path()).name == "checkpoint-30"
    assert main(["imitate", str(resumed / "imitate.yaml")]) == 0
    one, other = (d / "run" / BUNDLE / "policy" / "adapter_model.safetensors" for d in (whole, resumed))
    assert one.read_bytes() == other.read_bytes()


def test_it_can_go_on_from_another_adapter(tmp_path: Path) -> None:
    assert main(["imitate", str(configuration(tmp_path))]) == 0
    start = str(tmp_path / "run" / BUNDLE / "policy")
    again = configuration(tmp_path, output_dir="again", start=start, optimisation={"steps": 1, "batch_size": 1})
    assert main(["imitate", str(again)]) == 0
    assert greedy(tmp_path / "again" / BUNDLE, ROWS[2]).split() == ["B", "A"]


def test_rows_that_are_too_long_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prompts = Prompts(tiny.tokenizer(), "improve it")
    rows = [LessonRow.model_validate(row) for row in ROWS]
    leader = supervised_examples(rows, prompts, tiny.END, len(prompts.leader(tiny.CHAT)) + 3)
    assert [lesson.role for lesson in leader] == ["leader"]
    with pytest.raises(DataError, match="none of 3 rows fits in 2 tokens"):
        supervised_examples(rows, prompts, tiny.END, 2)
    caplog.set_level(logging.INFO)
    assert (
        main(["imitate", str(configuration(tmp_path, max_tokens=12, optimisation={"steps": 1, "batch_size": 2}))]) == 0
    )
    assert "4 lessons of 12 rows" in caplog.text


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"prompt": "which"}, "target"),
        ({"prompt": "which", "target": ""}, "target"),
        ({"target": "A"}, "prompt"),
        ({"prompt": "which", "target": "A", "weight": 0}, "weight"),
    ],
)
def test_a_bad_row_names_file_line_and_key(row: dict[str, Any], named: str, tmp_path: Path) -> None:
    file = tmp_path / "lessons.jsonl"
    file.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"lessons\.jsonl:2.*{named}"):
        list(read_lessons([file]))


def test_a_model_that_cannot_be_halved_is_refused_by_the_key() -> None:
    sliding = tiny.model()
    sliding.config.layer_types = ["sliding_attention", "full_attention"]
    with pytest.raises(SettingsError, match=r"lora\.layers"):
        HalvedModel(sliding, 1)
