"""Configurations: what is shipped is accepted by its command, and what is wrong is named."""

from pathlib import Path

import pytest

from slhf import FOLLOWER_TURN
from slhf_training.config import Section, read_config
from slhf_training.distill import DistillSettings
from slhf_training.errors import SettingsError
from slhf_training.evaluation import evaluate_settings
from slhf_training.evaluation.judging import JudgingSettings
from slhf_training.fit import FitSettings
from slhf_training.fit.run import settings_of, start_run
from slhf_training.imitation import ImitateSettings
from slhf_training.lessons.settings import LessonsSettings
from slhf_training.recipe import RecipeSettings
from slhf_training.reward import RewardTraining

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "training" / "examples").glob("*.yaml"))
COMMANDS: dict[str, type[Section]] = {
    "distill": DistillSettings,
    "evaluate": evaluate_settings(),
    "fit": FitSettings,
    "imitate": ImitateSettings,
    "judge": JudgingSettings,
    "lessons": LessonsSettings,
    "preference": RewardTraining,
    "run": RecipeSettings,
}
SERVERS = "rollout: {engine: vllm-server, servers: {urls: ['http://a'], adapters: shared}}"
GOOD = """
model: m
output_dir: out
data: {files: [a.jsonl, /b.jsonl.gz]}
preference: {kind: reward, model: judge}
"""


def read(path: Path) -> FitSettings:
    return read_config(path, FitSettings)


def test_there_are_examples_for_each_command() -> None:
    assert {path.name.partition("-")[0] for path in EXAMPLES} == COMMANDS.keys()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_shipped_configuration_is_accepted_by_its_command(path: Path) -> None:
    """Sections of data and preference included; no file or data set that they name is opened."""
    assert read_config(path, COMMANDS[path.name.partition("-")[0]]).model_dump()


def test_defaults_train_as_it_is_served(tmp_path: Path) -> None:
    (tmp_path / "fit.yaml").write_text(GOOD)
    settings = read(tmp_path / "fit.yaml")
    assert settings.follower_turn == FOLLOWER_TURN
    assert (settings.algorithm, settings.game.kl, settings.weights) == ("stackelberg", "to_go", "separate")
    assert settings.game.importance_cap == 2.0


def test_defaults_are_what_the_experiments_taught(tmp_path: Path) -> None:
    """docs/experiments/what-works.md, The game."""
    (tmp_path / "fit.yaml").write_text(GOOD)
    game = read(tmp_path / "fit.yaml").game
    assert (game.preset, game.baseline, game.replies_per_draft, game.leader_update_every) == (
        "default",
        "leave_one_out",
        2,
        2,
    )


def test_the_papers_preset_is_published_codes_and_what_is_given_wins(tmp_path: Path) -> None:
    (tmp_path / "fit.yaml").write_text(GOOD + "game: {preset: paper, baseline: null, leader_update_every: 3}")
    game = read(tmp_path / "fit.yaml").game
    assert (game.kl, game.kl_estimator, game.baseline) == ("token", "k3", "half")
    assert (game.replies_per_draft, game.leader_update_every) == (1, 3)
    assert game.kappa == 5.0
    (tmp_path / "fit.yaml").write_text(GOOD + "game: {preset: paper, kl: to_go}")
    unbiased = read(tmp_path / "fit.yaml").game
    assert (unbiased.kl, unbiased.kl_estimator, unbiased.baseline) == ("to_go", "k1", "half")


@pytest.mark.parametrize("name", ["fit-qwen2.5-0.5b.yaml", "fit-qwen2.5-coder-0.5b-checked.yaml", "fit-full-8b.yaml"])
def test_the_papers_recipes_say_what_they_differ_in_themselves(name: str) -> None:
    """They keep their meaning whatever the defaults become."""
    path = next(path for path in EXAMPLES if path.name == name)
    game = read(path).game
    assert (game.kl, game.baseline, game.replies_per_draft, game.leader_update_every) == ("to_go", "half", 1, 1)
    assert {"kl", "baseline", "replies_per_draft", "leader_update_every"} <= game.model_fields_set


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gamma: 1", "gamma: Extra inputs"),
        ("game: {tau: 1}", "game.tau: Extra inputs"),
        ("game: {kappa: -1}", "game.kappa: .*greater than 0.*-1"),
        ("algorithm: dpo", "algorithm: .*dpo"),
        ("optimisation: {betas: [0.9]}", "optimisation.betas"),
        ("game: {importance_cap: 0}", "game.importance_cap: .*greater than 0"),
        ("lora: {layers: [2, 2]}", r"lora: .*layers: expected \[first, end\] with 0 <= first < end, got \[2, 2\]"),
        ("lora: {layers: [-1, 2]}", r"lora: .*layers: .*got \[-1, 2\]"),
        (
            "lora: {layers: [0, 1], target_modules: '.*_proj'}",
            "lora: .*layers: needs target_modules: all-linear or a list",
        ),
        ("game: {preset: published}", "game.preset: Input should be 'default' or 'paper'"),
        ("game: {kl_estimator: k3}", "kl_estimator: 'k3' needs kl: token"),
        ("rollout: {vllm: {max_model_len: 9}}", "rollout: .*vllm: needs engine: vllm, not hf"),
        ("rollout: {engine: vllm, vllm: {dtype: half}}", "rollout: .*vllm.dtype: follows from other settings"),
        ("rollout: {engine: vllm, vllm: {tensor_parallel_size: 2}}", "vllm.tensor_parallel_size: each process has an"),
        ("rollout: {engine: vllm-server}", "rollout: .*servers: engine vllm-server needs them"),
        ("rollout: {servers: {urls: ['http://a'], adapters: x}}", "rollout: .*servers: .*engine is hf"),
        ("rollout: {engine: vllm-server, servers: {urls: [a], adapters: x}}", "rollout.servers.urls.0"),
        ("algorithm: nash-md\nrollout: {engine: vllm}", "rollout.engine: vllm cannot mix two models"),
        ("algorithm: rloo\ndrafts: {data: [{files: [a]}]}", "drafts: rloo has no Follower to refine them"),
        ("drafts: {data: []}", "drafts.data: .*at least 1"),
        (
            "weights: full\ndtype: bfloat16",
            "dtype: bfloat16 with weights: full: .*use float32",
        ),
        ("weights: full\nadapter: ./bundle", "adapter: weights: full has none"),
        (f"weights: full\n{SERVERS}", "rollout.engine: vllm-server takes adapters"),
        ("data: {files: [a], limit: 0}", "data.limit: .*greater than 0"),
        ("data: {}", "data: .*files and hub"),
        ("preference: {kind: reward, model: j, heads: h}", "preference.reward.heads: Extra inputs"),
        ("preference: {kind: oracle}", "preference: .*oracle"),
        ("model: [", "fit.yaml"),
    ],
)
def test_what_is_wrong_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "fit.yaml"
    path.write_text(GOOD + line)
    with pytest.raises(SettingsError, match=message):
        read(path)


def test_servers_find_adapters_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "fit.yaml").write_text(GOOD + SERVERS)
    servers = read(tmp_path / "fit.yaml").rollout.servers
    assert servers is not None
    assert servers.adapters == tmp_path / "shared"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="absent.yaml"):
        read(tmp_path / "absent.yaml")


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "fit.yaml").write_text("- a list")
    with pytest.raises(SettingsError, match="fit.yaml: expected keys and values, got list"):
        read(tmp_path / "fit.yaml")


def test_the_command_line_replaces_keys_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "fit.yaml").write_text(GOOD)
    settings = read_config(tmp_path / "fit.yaml", FitSettings, {"algorithm": "rloo", "output_dir": "/else/where"})
    assert (settings.algorithm, settings.output_dir) == ("rloo", Path("/else/where"))


def test_paths_start_at_the_file_and_stay_there_in_the_runs_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the file is named by a relative path; small numbers and infinity come back as well."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "fit.yaml").write_text(
        GOOD.replace("model: m", "model: ./m") + "optimisation: {max_grad_norm: .inf, learning_rate: 1.0e-6}"
    )
    monkeypatch.chdir(tmp_path)
    settings = read(Path("configs/fit.yaml"))
    here = tmp_path / "configs"
    assert settings.data.files == (here / "a.jsonl", Path("/b.jsonl.gz"))
    assert (settings.model, settings.output_dir) == (str(here / "m"), here / "out")
    start_run(settings)
    monkeypatch.chdir("/")
    assert settings_of(here / "out") == settings


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("c.json", '{"model": NaN}', "NaN is not JSON"),
        ("c.json", '{"game": {"kappa": 1e999}}', "too large"),
        ("c.json", "[" * 99_999, "nested too deeply"),
        ("c.yaml", "a: " + "[" * 5_000, "nested too deeply"),
        ("c.yaml", GOOD + "game: {kappa: .nan}", r"game\.kappa: .*finite number"),
        ("c.yaml", GOOD + "game: {tau_leader: .inf}", r"game\.tau_leader: .*finite number"),
        ("c.yaml", GOOD + "optimisation: {learning_rate: .inf}", r"learning_rate: .*finite number"),
    ],
)
def test_numbers_that_are_none_and_bottomless_files_are_named(
    tmp_path: Path, name: str, content: str, problem: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(SettingsError, match=rf"{name}: .*{problem}"):
        read(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
def test_a_configuration_may_begin_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(GOOD, encoding=encoding)
    assert read(path).model == "m"
