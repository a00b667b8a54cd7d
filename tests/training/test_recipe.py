"""`slhf-train run`: pairs in, a measured bundle out; what was cut short goes on, and no prompt serves twice."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from slhf import read_bundle
from slhf_training.cli import main
from slhf_training.config import read_config
from slhf_training.data.load import load
from slhf_training.errors import EngineError, SettingsError
from slhf_training.fit.run import settings_of
from slhf_training.recipe import RecipeSettings
from slhf_training.recipe.run import JUDGE, MEASURED, run
from tests.training import tiny

FIT: dict[str, Any] = {
    "weights": "shared",
    "lora": {"r": 2, "alpha": 4},
    "optimisation": {"steps": 2, "batch_size": 4},
    "rollout": {"max_new_tokens": 4, "dtype": "float32"},
    "save_every": 1,
    "report_to": [],
}
RECIPE: dict[str, Any] = {
    "output_dir": "mine",
    "data": {"files": ["pairs.jsonl"]},
    "model": "./model",
    "fit": FIT,
    "measuring": {"prompts": 5, "generation": {"generator": "hf"}},
}


def written(directory: Path, **changes: Any) -> Path:
    words = tiny.byte_tokenizer()
    words.save_pretrained(directory / "model")
    torch.manual_seed(0)
    config = tiny.config(len(words), words.eos_token_id, hidden_size=32, initializer_range=0.2)
    LlamaForCausalLM(config).save_pretrained(directory / "model")
    rows = [
        {"prompt": f"Question {n}?", "chosen": "yes " * (n % 3 + 1), "rejected": "no " * (n % 4 + 1)} for n in range(80)
    ]
    (directory / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (directory / "recipe.yaml").write_text(json.dumps(RECIPE | changes), encoding="utf-8")
    return directory / "recipe.yaml"


def broken(*_: Any) -> Any:
    raise EngineError("out of memory")


def test_pairs_become_a_bundle_that_says_how_good_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The evaluation fails at first: what was done before is not done again."""
    file = written(tmp_path)
    with pytest.raises(EngineError):
        run(read_config(file, RecipeSettings), "mine", broken)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").glob("*/**/*") if path.is_file()}
    assert not (tmp_path / "mine" / "bundle").exists()
    (tmp_path / "mine" / ".bundle.killed").mkdir()
    assert main(["run", str(file)]) == 0
    assert capsys.readouterr().out.endswith(f"scripts/serve --bundle {tmp_path / 'mine' / 'bundle'}\n")
    assert not [*(tmp_path / "mine").glob(".*")]
    again = {path for path, then in made.items() if path.stat().st_mtime_ns != then}
    assert {path.parent.name for path in again} <= {"evaluation"}
    bundle = read_bundle(tmp_path / "mine" / "bundle")
    assert (bundle.name, bundle.trained) == ("mine", "stackelberg")
    assert {duel["follower"] for duel in bundle.evaluation["refinement"]["duels"]} == {"trained", "base"}
    page = (tmp_path / "mine" / "evaluation" / "report.md").read_text(encoding="utf-8")
    pictures = re.findall(r"^!\[.*\]\((.*)\)$", page, re.MULTILINE)
    assert pictures == ["round_robin.png", "refinement.png", "rounds.png", "training.png"]
    assert re.search(r"^\| judge \| \d+ \| \d+ \| [01]\.\d{3} ± ", page, re.MULTILINE)
    assert re.search(r"^\| held-out-judge \| ", page, re.MULTILINE)
    for name in pictures:
        assert (tmp_path / "mine" / "evaluation" / name).read_bytes().startswith(b"\x89PNG")
    report = json.loads((tmp_path / "mine" / "evaluation" / "report.json").read_text(encoding="utf-8"))
    sampling = {key: report["settings"]["generation"][key] for key in ("temperature", "max_new_tokens")}
    assert sampling == {"temperature": 0.9, "max_new_tokens": 4}  # as it was trained, and so validated
    assert main(["run", str(file)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_each_part_of_the_prompts_has_one_use(tmp_path: Path) -> None:
    with pytest.raises(EngineError):
        run(read_config(written(tmp_path), RecipeSettings), "mine", broken)
    fit = settings_of(tmp_path / "mine" / "fit")
    assert fit.validation is not None
    parts = [JUDGE, fit.data.part, fit.validation.data.part, MEASURED]
    prompts = [{e.chat[0]["content"] for e in load(fit.data.model_copy(update={"part": part}))} for part in parts]
    assert [*map(bool, prompts)] == [True] * 4
    assert len(set().union(*prompts)) == sum(map(len, prompts)) == 80
    records = (tmp_path / "mine" / "fit" / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["chat"].removeprefix("user: ") for line in records} <= prompts[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fit": {"model": "./other"}}, "fit: .*model: follows from the recipe"),
        ({"fit": {"optimisation": {"step": 3}}}, "fit.*optimisation.step: Extra inputs"),
        ({"fit": {"save_every": 0}}, "fit.*save_every: .*greater than 0"),
        ({"data": {"files": ["pairs.jsonl"], "part": [0, 0.5]}}, "data.part: the recipe cuts"),
        ({"judges": {"training": {"method": "lora"}}}, "judges.*hold_length: lora cannot"),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_made(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        read_config(written(tmp_path, **changes), RecipeSettings)


def test_a_run_goes_on_with_another_way_of_measuring(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Such as after hours of training, where the evaluation's engine does not start: nothing is trained again."""
    with pytest.raises(EngineError):
        run(read_config(written(tmp_path), RecipeSettings), "mine", broken)
    trained = (tmp_path / "mine" / "fit" / "checkpoint-2").stat().st_mtime_ns
    measuring = {"prompts": 3, "generation": {"generator": "hf"}}
    run(read_config(written(tmp_path, measuring=measuring), RecipeSettings), "mine")
    assert "measuring.prompts: 5 before, 3 now" in caplog.text
    assert (tmp_path / "mine" / "fit" / "checkpoint-2").stat().st_mtime_ns == trained
    report = json.loads((tmp_path / "mine" / "evaluation" / "report.json").read_text(encoding="utf-8"))
    assert report["prompts"] == 3


def test_another_recipe_does_not_go_on_in_the_same_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EngineError):
        run(read_config(written(tmp_path), RecipeSettings), "mine", broken)
    assert main(["run", str(written(tmp_path, fit=FIT | {"seed": 7}))]) == 1
    assert "fit.seed: null before, 7 now: that is another run" in capsys.readouterr().err
