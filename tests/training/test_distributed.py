"""Two processes (gloo, CPU) on half the batch each train like one process on the whole batch; configurations are those
that are shipped, through `accelerate launch`.

What learns is in float64, but for what transformers computes in float32 (norms, rotary embeddings). So losses and
gradients of every mode are the same to 1e-6. Adam makes much of what is left where a gradient is all but zero, so
weights are the same to a hundredth of a step."""

import atexit
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file, save_file

from slhf_training.data import Example, Pair
from slhf_training.errors import SettingsError
from slhf_training.fit.step import DraftPool, drafts_of
from slhf_training.fit.trainer import GameTrainer
from slhf_training.fit.validation import FILE, Validation
from slhf_training.models.load import load_causal
from slhf_training.models.prompts import Prompts
from slhf_training.models.sharding import end_together, from_launcher, this_process
from slhf_training.reward.backbone import Backbone
from slhf_training.rollout.server import ServerRollout
from slhf_training.types import Chat, Probabilities
from tests.training import tiny
from tests.training.judging import Reply, endpoint
from tests.training.test_rollout_server import VLLM
from tests.training.test_trainer import CHATS, fewer_as
from tests.training.test_validation import HELD_OUT, OTHER

pytestmark = pytest.mark.timeout(900)
ROOT = Path(__file__).resolve().parents[2]
CONFIGURATIONS = ROOT / "training" / "examples" / "accelerate"
SCRIPT = "from tests.training.test_distributed import train; import sys; train(sys.argv[1], sys.argv[2:])\n"
SERVER = "TEST_SERVER_URL"
STEPS = 3
GAMES: dict[str, dict[str, Any]] = {
    "separate": {"ema_decay": 0.5},
    "shared": {"weights": "shared", "optimisation": {"gradient_checkpointing": True}},
    "full": {"weights": "full", "ema_decay": 0.5, "game": {"importance_cap": None}},
    "nash-md": {"algorithm": "nash-md", "game": {"mixture": 0.5}},
    "rloo": {"algorithm": "rloo"},
    "rounds": {"game": {"rollout_rounds": 2, "replies_per_draft": 2, "leader_update_every": 2}},
    "server": {"rollout": {"engine": "vllm-server"}},
    "drafts": {},
    "validated": {"validation": {**OTHER, "every": 2}},
}
"""What differs from the settings below, by the name of the run. A sharded model whose weights all learn samples from a
copy in float32, another one from itself in float64: so tokens do not count by what the sampler says of them."""
RESUMED = ("separate", "full")
RATE = 5e-6
MIXED: dict[str, Any] = {
    "weights": "full",
    "optimisation": {"autocast": "bfloat16", "learning_rate": RATE, "schedule": "constant"},
    "rollout": {"dtype": "bfloat16"},
}
"""Computed in bfloat16, so that one process and two differ in more than the last digits."""


def train(directory: str, names: Sequence[str]) -> None:
    """In one or more processes: each game from its start, and some once more from the checkpoint of step 2."""
    torch.set_num_threads(1)
    rank = this_process().process_index  # as a judge asks before there is a trainer
    Path(directory).mkdir(exist_ok=True)
    atexit.register(Path(directory, f"ended-{rank}").touch)
    _, loaded = load_causal(str(Path(directory).parent / "base"), torch.float32)
    judge = Backbone.load(str(Path(directory).parent / "base"), (), 64, 64, dtype="float32").model
    weights = loaded.state_dict() | {f"judge.{name}": weight for name, weight in judge.state_dict().items()}
    save_file(weights, Path(directory, f"loaded-{rank}.safetensors"))
    for name in names:
        trainer(Path(directory) / name, name).train()
        if name in RESUMED:
            resumed = trainer(Path(directory) / f"{name}-resumed", name)
            resumed.train(resume_from_checkpoint=str(Path(directory) / name / "checkpoint-2"))
    end_together()


def trainer(directory: Path, name: str) -> GameTrainer:
    changes = MIXED if name == "mixed" else GAMES[name]
    batch = {"batch_size": 8 // int(os.environ.get("WORLD_SIZE", "1")), "micro_batch_size": 3}
    if name == "server":
        servers = {"urls": [os.environ[SERVER]], "adapters": str(directory / "adapters")}
        changes = {"rollout": {**changes["rollout"], "servers": servers}}
    settings = tiny.settings(
        directory,
        save_every=2,
        **changes
        | {
            "game": {"baseline": "leave_one_out"} | changes.get("game", {}),
            "optimisation": {"steps": STEPS, "learning_rate": 1e-3} | batch | changes.get("optimisation", {}),
        },
    )
    found = tiny.trainer(
        settings,
        hardly_judging,
        CHATS,
        draft_pool=draft_pool(settings.seed) if name == "drafts" else None,
        validation=Validation(HELD_OUT, fewer_as, CHATS) if name == "validated" else None,
        dtype=torch.float32 if name == "mixed" else torch.float64,
    )
    if name == "server":
        sampler = ServerRollout(found.roles, settings.rollout, found.environment.prompts.end_ids)
        found.environment = dataclasses.replace(found.environment, rollout=sampler)
    if settings.optimisation.gradient_checkpointing:
        found.roles.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return found


class Answering(VLLM):
    """A server whose answers depend on their seeds alone."""

    def __call__(self, request: Any) -> Reply:
        if not request or request.get("logprobs") != 0:
            return super().__call__(request)
        rng = np.random.default_rng(request["seed"])
        ids = [*rng.integers(1, tiny.END, rng.integers(1, 4)).tolist(), tiny.END]
        logprobs = {"token_logprobs": [-1.5] * len(ids)}
        return 200, {"choices": [{"token_ids": ids, "logprobs": logprobs, "finish_reason": "stop"}]}


def draft_pool(seed: int) -> DraftPool:
    """Four drafts a step of all processes, of which accelerate knows here before any trainer is there."""
    drafts = drafts_of([Example(CHATS[1], Pair("A B", "C"))] * 6, Prompts(tiny.tokenizer()), len(CHATS), most=100)
    ours = this_process()
    return DraftPool(drafts, 4 // ours.num_processes, seed, ours.process_index, ours.num_processes)


def hardly_judging(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
    """Abstains about one kind of chat, so that processes have unlike numbers of micro-batches."""
    silent = [chat[-1]["content"] == "which" for chat in chats]
    return np.where(silent, np.nan, fewer_as(chats, first, second))


def run(directory: Path, configuration: str | None = None, names: Sequence[str] = (*GAMES, "mixed")) -> None:
    """In two processes by a shipped configuration, or in one."""
    script = directory.parent / "train.py"
    script.write_text(SCRIPT)
    tiny.model().save_pretrained(directory.parent / "base")
    tiny.tokenizer().save_pretrained(directory.parent / "base")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGURATIONS / f"{configuration}.yaml")]
    processes = ["--num_processes", "2", "--main_process_port", "0"]
    launched = [*launcher, *processes] if configuration else []
    command = [sys.executable, *launched, str(script), str(directory), *names]
    with endpoint(Answering()) as server:
        environment[SERVER] = server.url.removesuffix("/v1")
        subprocess.run(command, env=environment, timeout=800, check=True, cwd=ROOT)


def curve(run: Path) -> dict[str, list[float]]:
    """By name, what was logged at each step and does not depend on the clock."""
    history = json.loads((run / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in history if "loss" in entry]
    keys = {key: None for entry in steps for key in entry if "second" not in key}
    return {key: [entry[key] for entry in steps if key in entry] for key in keys}


def gradients(run: Path) -> list[torch.Tensor]:
    """Adam's running means of all gradients, parameter by parameter."""
    state = torch.load(run / f"checkpoint-{STEPS}" / "optimizer.pt", weights_only=True)["state"]
    return [state[number]["exp_avg"] for number in sorted(state)]


def weights(run: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    """By file and name; the moving average's, too, where there is one."""
    checkpoint = run / f"checkpoint-{step}"
    files = sorted(checkpoint.rglob("*model.safetensors"))
    return {f"{path.parent.relative_to(checkpoint)}/{k}": v for path in files for k, v in load_file(path).items()}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("one") / "runs"
    run(directory)
    return directory


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("two") / "runs"
    run(directory, "ddp", [*GAMES])
    return directory


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sharded") / "runs"
    run(directory, "fsdp2")
    return directory


def assert_same(run: Path, other: Path) -> None:
    """Answers depend on their seeds alone, so both play the same games.

    Rewards and KL are shown as the mean of the processes' means: another mean where some answers are not judged.
    """
    found, expected = curve(run), curve(other)
    for key in ("loss", *(k for k in expected if k.endswith("grad_norm"))):
        assert found[key] == pytest.approx(expected[key], rel=1e-6, abs=1e-6), key
    torch.testing.assert_close(gradients(run), gradients(other), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(weights(run), weights(other), rtol=1e-6, atol=0.01 * 1e-3)


@pytest.mark.parametrize("name", GAMES)
def test_two_processes_train_like_one_with_twice_the_batch(name: str, one: Path, two: Path) -> None:
    assert_same(two / name, one / name)


@pytest.mark.parametrize("name", GAMES)
def test_a_sharded_model_trains_like_a_whole_one(name: str, one: Path, sharded: Path) -> None:
    assert_same(sharded / name, one / name)


@pytest.mark.parametrize("name", RESUMED)
def test_the_moving_average_of_a_sharded_model_is_that_of_its_weights(name: str, sharded: Path) -> None:
    """Of the mean of three steps that count 1/4, 1/2 and 1, the third is 4/7."""
    before, after = (weights(sharded / name, step) for step in (2, STEPS))
    averages = {key: value for key, value in after.items() if key.startswith("ema")}
    assert averages
    for key, average in averages.items():
        name_of_last = key.removeprefix("ema/")
        last = after[name_of_last if name_of_last in after else f"./{name_of_last}"]
        torch.testing.assert_close(average, torch.lerp(before[key], last, 4 / 7), rtol=0, atol=1e-6)


def test_several_processes_validate_as_one(one: Path, sharded: Path) -> None:
    """Each some of the chats, after step 2 and at the end; three chats of two processes."""
    rows = [(root / "validated" / FILE).read_text(encoding="utf-8").splitlines() for root in (one, sharded)]
    alone, several = ([json.loads(line) for line in lines] for lines in rows)
    chats = [f"user: {chat[0]['content']}" for chat in HELD_OUT]
    assert [(row["step"], row["chat"]) for row in several] == [(step, chat) for step in (2, STEPS) for chat in chats]
    assert [row["leader"] for row in several] == [row["leader"] for row in alone]
    assert [row["p"] for row in several] == [row["p"] for row in alone]


def test_sharded_weights_are_trained_in_float32_and_computed_in_bfloat16(one: Path, sharded: Path) -> None:
    """In the checkpoint all moved by steps of the rate, and as in one process."""
    start = {f"./{name}": weight for name, weight in tiny.model().state_dict().items()}
    found, expected = weights(sharded / "mixed"), weights(one / "mixed")
    assert {weight.dtype for weight in found.values()} == {torch.float32}
    moved = torch.cat([(weight - start[name]).flatten() for name, weight in found.items()])
    alone = torch.cat([(expected[name] - start[name]).flatten() for name in found])
    assert moved.abs().max() <= 1.05 * STEPS * RATE
    assert (moved.abs() > 0.5 * RATE).float().mean() > 0.5
    assert torch.nn.functional.cosine_similarity(moved, alone, dim=0) > 0.9


def test_each_process_reads_the_whole_model(sharded: Path) -> None:
    """transformers leaves all but the first without weights, once processes know of each other."""
    model = tiny.model()
    expected = model.state_dict() | {f"judge.{name}": weight for name, weight in model.model.state_dict().items()}
    for rank in (0, 1):
        loaded = load_file(sharded / f"loaded-{rank}.safetensors")
        assert all(torch.equal(loaded[name], weight) for name, weight in expected.items()), rank


def test_each_process_ends_with_what_was_registered_for_its_end(sharded: Path) -> None:
    assert {path.name for path in sharded.glob("ended-*")} == {"ended-0", "ended-1"}


@pytest.mark.parametrize("name", RESUMED)
def test_a_sharded_run_goes_on_from_its_checkpoint_bit_for_bit(name: str, sharded: Path) -> None:
    assert curve(sharded / f"{name}-resumed") == curve(sharded / name)
    whole, resumed = weights(sharded / name), weights(sharded / f"{name}-resumed")
    assert whole
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())


@pytest.mark.parametrize("name", RESUMED)
def test_one_process_goes_on_from_the_checkpoint_of_several(name: str, sharded: Path, tmp_path: Path) -> None:
    trainer(tmp_path, name).train(resume_from_checkpoint=str(sharded / name / "checkpoint-2"))
    assert_same(tmp_path, sharded / name)


def test_a_sharded_checkpoint_holds_what_one_process_writes(one: Path, sharded: Path) -> None:
    """Whole tensors of the same shapes, and no more files than random states."""
    for name in GAMES:
        shapes = [{k: v.shape for k, v in weights(root / name).items()} for root in (one, sharded)]
        assert shapes[0] == shapes[1]
        files = [{p.name for p in (root / name / f"checkpoint-{STEPS}").iterdir()} for root in (one, sharded)]
        assert files[1] - files[0] == {"rng_state_0.pth", "rng_state_1.pth"}


@pytest.mark.parametrize("path", sorted(CONFIGURATIONS.glob("*.yaml")), ids=lambda path: path.name)
def test_accelerate_reads_every_shipped_configuration(path: Path) -> None:
    assert load_config_from_file(str(path)).num_processes > 1


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DEEPSPEED.*fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "fsdp_version: 1"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "mixed_precision.*autocast"),
    ],
)
def test_what_is_not_supported_is_named(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=message):
        from_launcher()
