"""Sampling with the real vLLM, in this process and on a server, by a random Llama in float32.

Each case is a process of its own: an engine leaves much behind in the one it ran in. The same prompts, longer than a
block of the prefix cache, are asked before and after every change of the weights: what the cache kept would show.
"""

import contextlib
import copy
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from slhf_training.fit import FitSettings
from slhf_training.fit.algorithms import Game, stackelberg
from slhf_training.fit.step import ChatStepContext, Clock, Environment
from slhf_training.fit.streaming import Coming, then
from slhf_training.fit.trainer import build_roles, build_trainer, load_model
from slhf_training.models.prompts import Prompts
from slhf_training.models.roles import Roles
from slhf_training.models.scoring import answer_log_probs
from slhf_training.models.sharding import end_together, this_process, without_launcher
from slhf_training.rollout import Streaming
from slhf_training.rollout.server import ServerRollout
from slhf_training.rollout.vllm import VLLMRollout
from slhf_training.types import ROLES, Ids, Player, Sample
from tests.training import tiny
from tests.training.test_streaming import PATIENCE, Batched
from tests.training.test_trainer import CHATS, fewer_as

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
CONFIGURATIONS = ROOT / "training" / "examples" / "accelerate"
END = frozenset([tiny.END])
LONG: Ids = (9, *[4, 5, 6, 7] * 9, 8, 10)
PROMPTS: list[Ids] = [LONG, LONG[:-1] + (7, 10)] * 8
PLAYERS: list[Player] = ["leader", "follower", "reference"]
ENGINE = {"kv_cache_memory_bytes": 1 << 26, "max_model_len": 64, "max_num_batched_tokens": 64, "block_size": 32}


def saved(directory: Path, tied: bool = False) -> Any:
    """The model, as a directory too. vLLM's kernels for CPUs want heads of 32 dimensions or more."""
    model = tiny.model(heads=2, tied=tied)
    model.save_pretrained(directory)
    tiny.tokenizer().save_pretrained(directory)
    return model


def settings(directory: Path, weights: str = "separate", **rollout: Any) -> FitSettings:
    chosen = {"temperature": 0.7, "max_new_tokens": 6, **rollout}
    return tiny.settings(directory / "run", model=str(directory), weights=weights, rollout=chosen)


def change(roles: Roles, seed: int) -> None:
    torch.manual_seed(seed)
    for parameters in roles.trained.values():
        for parameter in parameters:
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter), alpha=0.2 if roles.weights != "full" else 0.05)


def log_probs(roles: Roles, player: Player, answers: list[Ids], temperature: float) -> list[list[float]]:
    """Of each answer's tokens, by transformers."""
    model = roles.use(player) if player in ROLES else roles.use_reference()
    with torch.no_grad():
        found: list[list[float]] = answer_log_probs(model, PROMPTS, answers, temperature, torch.device("cpu")).tolist()
    return found


def speaks_as_the_current_weights(
    roles: Roles, rollout: Streaming, temperature: float, reference_apart: bool = False
) -> None:
    """Also where a player is asked before another one's answers are waited for.

    `reference_apart`: a server's LoRA on CPUs is not right where the base is in the batch (vllm-project/vllm#48421).
    """
    seen: dict[Player, list[Any]] = {player: [] for player in PLAYERS}
    for update in range(3):
        asked: dict[Player, list[Future[Sample]]] = {}
        for player in PLAYERS:
            if reference_apart and player == "reference":
                wait([answer for answers in asked.values() for answer in answers], PATIENCE)
            ask = rollout.asking(player)
            asked[player] = [ask(place, prompt, place) for place, prompt in enumerate(PROMPTS)]
        for player, answers in asked.items():
            samples = [answer.result(PATIENCE) for answer in answers]
            expected = log_probs(roles, player, [sample.ids for sample in samples], temperature)
            for row, sample in zip(expected, samples, strict=True):
                assert sample.logps == pytest.approx(row[: len(sample.ids)], abs=1e-3), (update, player)
                assert sample.ended == (sample.ids[-1] == tiny.END)
                assert sample.ended or len(sample.ids) == 6
            seen[player].append(samples)
        change(roles, update)
    assert seen["reference"][0] == pytest.approx(seen["reference"][1])
    assert all(seen[role][0] != seen[role][1] != seen[role][2] for role in ROLES)


def in_process(directory: Path, weights: str) -> None:
    base = saved(directory, tied=weights == "full")
    fit = settings(directory, weights, engine="vllm", vllm=ENGINE)
    roles = Roles(base, fit.weights, fit.lora, merges=False)
    speaks_as_the_current_weights(roles, VLLMRollout(roles, fit.model, fit.rollout, fit.seed, END), 0.7)


def greedily(directory: Path, weights: str) -> None:
    """At 0.01, the least that vLLM takes, what transformers finds less likely by a tenth of a logit has e^-10."""
    base = saved(directory)
    fit = settings(directory, weights, engine="vllm", vllm=ENGINE, temperature=0.01)
    roles = Roles(base, fit.weights, fit.lora, merges=False)
    rollout = VLLMRollout(roles, fit.model, fit.rollout, fit.seed, END)
    for update in range(2):
        change(roles, update)
        for player in PLAYERS:
            answers = [sample.ids for sample in rollout.sample(PROMPTS, player, range(16))]
            for row, answer in zip(log_probs(roles, player, answers, 0.01), answers, strict=True):
                assert min(row[: len(answer)]) > -10, (update, player)


def overlaps(directory: Path, _: str) -> None:
    from vllm.exceptions import VLLMValidationError

    base = saved(directory)
    for weights in ("shared", "separate"):
        fit = settings(directory, weights, engine="vllm", vllm=ENGINE, max_new_tokens=16)
        torch.manual_seed(0)  # an adapter's first weights, on which lengths depend
        roles = Roles(copy.deepcopy(base), fit.weights, fit.lora, merges=False)
        change(roles, 0)
        rollout = VLLMRollout(roles, fit.model, fit.rollout, fit.seed, END)
        follows_at_once(rollout, is_shared=weights == "shared")
        plays_the_same(rollout)
    too_long = rollout.asking("leader")(0, LONG * 2, 0)
    with pytest.raises(VLLMValidationError, match="length 78"):
        too_long.result(PATIENCE)
    assert len(rollout.sample(PROMPTS, "leader", range(16))) == 16


def follows_at_once(rollout: VLLMRollout, is_shared: bool) -> None:
    """A short answer and the reply to it are written while a long answer still is, if one set of weights does both."""
    lengths = [len(sample.ids) for sample in rollout.sample(PROMPTS, "leader", range(16))]
    short, long = lengths.index(min(lengths)), lengths.index(max(lengths))
    ask, written = rollout.asking("leader"), []
    last = ask(0, PROMPTS[long], long)
    last.add_done_callback(lambda _: written.append("long"))
    draft = ask(0, PROMPTS[short], short)
    reply = rollout.asking("follower")
    answered = then(draft, lambda _: reply(0, PROMPTS[short], short))
    answered.add_done_callback(lambda _: written.append("reply"))
    assert 2 * len(answered.result(PATIENCE).ids) + 3 < len(last.result(PATIENCE).ids)
    assert written[0] == ("reply" if is_shared else "long")


def plays_the_same(rollout: VLLMRollout) -> None:
    """Answers and rewards of a game, with answers that are streamed and with a batch after the other."""
    games = []
    for sampler in (rollout, Batched(rollout)):
        prompts = Prompts(tiny.tokenizer(), "improve it")
        environment = Environment(prompts, sampler, fewer_as, Clock(), eos_penalty=0.5, seed=0)
        context = ChatStepContext(environment, CHATS, range(len(CHATS)), step=0)
        games.append(stackelberg(context, Game(rollout_rounds=2)))
        assert isinstance(games[-1][0].answer, Coming) == (sampler is rollout)
    streamed, batched = (
        [(one.role, one.answer.prompt, one.answer.sample.ids, one.reward) for one in game] for game in games
    )
    assert streamed == batched
    assert len({ids for _, _, ids, _ in streamed}) > 16


DIVIDED = {"separate": True, "full": True, "shared": False}
"""By the kind of weights, whether two processes hold a part of the model each, or all of it."""


def trains(directory: Path, log: str) -> None:
    """`fit` as the command builds it, in one process or more. Writes its log, by weights and what is logged."""
    logs, trainers = {}, []
    for weights, is_divided in DIVIDED.items():
        with contextlib.nullcontext() if is_divided else without_launcher():
            fit = settings(directory, weights, engine="vllm", vllm=ENGINE, max_prompt_tokens=32)
            batch = fit.optimisation.model_copy(update={"batch_size": 8 // this_process().num_processes})
            output = directory.parent / f"{log}-{weights}"
            fit = fit.model_copy(update={"optimisation": batch, "output_dir": output})
            trainers.append(build_trainer(fit, CHATS, fewer_as))  # an engine that ends takes all groups with it
            trainers[-1].train()
        steps = [entry for entry in trainers[-1].state.log_history if "loss" in entry]
        logs[weights] = {key: [step[key] for step in steps] for key in steps[0]}
    if this_process().is_main_process:
        (directory.parent / log).write_text(json.dumps(logs))
    end_together()


def built_in(directory: Path, weights: str) -> None:
    rollout = {"engine": "vllm", "vllm": ENGINE, "max_new_tokens": 4}
    fit = tiny.settings(directory, model="builtin:smollm2-135m", weights=weights, rollout=rollout)
    roles = build_roles(fit, load_model(fit)[1])
    (sample,) = VLLMRollout(roles, fit.model, fit.rollout, fit.seed, END).sample([(1, 2, 3)], "leader", [0])
    assert sample.ids


@pytest.mark.parametrize(
    ("case", "weights"),
    [
        (in_process, "separate"),
        (in_process, "full"),
        (greedily, "separate"),
        (overlaps, "both"),
        (built_in, "shared"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_vllm_in_this_process_samples_by_the_current_weights_of_each_role(
    case: Callable[[Path, str], None], weights: str, tmp_path: Path
) -> None:
    run(case, weights, tmp_path)


def test_an_engine_in_each_of_two_processes_samples_as_that_of_one(tmp_path: Path) -> None:
    """Half a batch each, by weights that both hold or that are gathered from both: the same games.

    Steps differ in the last digits, of which Adam makes more.
    """
    saved(tmp_path / "model")
    run(trains, "alone", tmp_path)
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGURATIONS / "fsdp2.yaml")]
    run(trains, "several", tmp_path, *launcher, "--num_processes", "2", "--main_process_port", "0")
    alone, several = (json.loads((tmp_path / log).read_text()) for log in ("alone", "several"))
    for weights in DIVIDED:
        assert max(alone[weights]["sampler_gap"] + several[weights]["sampler_gap"]) < 1e-4, weights
        for key in ("loss", *(f"{role}/{what}" for role in ROLES for what in ("tokens", "ended", "reward", "kl"))):
            assert several[weights][key] == pytest.approx(alone[weights][key], rel=1e-3, abs=1e-4), (weights, key)


def run(case: Callable[[Path, str], None], argument: str, tmp_path: Path, *launcher: str) -> None:
    script = tmp_path / "case.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom tests.training import test_rollout_vllm as cases\n"
        "getattr(cases, sys.argv[1])(Path(sys.argv[2]), sys.argv[3])\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, *launcher, str(script), case.__name__, str(tmp_path / "model"), argument]
    done = subprocess.run(command, env=environment, timeout=500, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@contextlib.contextmanager
def vllm_server(model: Path, *flags: str) -> Iterator[str]:
    """The URL of vLLM's own server, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log, url = model.parent / "server.log", f"http://127.0.0.1:{port}"
    command = [sys.executable, str(ROOT / "benchmarks" / "vllm_command.py"), "serve", str(model), "--port", str(port)]
    environment = os.environ | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    with log.open("w") as file:
        process = subprocess.Popen([*command, *flags], stdout=file, stderr=file, env=environment)
    try:
        wait_for(url, process, log)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up = time.monotonic() + 400
    while time.monotonic() < give_up and process.poll() is None:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/health").status_code == 200:
                return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
    raise AssertionError(log.read_text()[-4000:])


def test_a_vllm_server_samples_by_the_current_weights_of_each_role(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    base = saved(directory)
    engine = ["--dtype", "float32", "--kv-cache-memory-bytes", str(1 << 26), "--max-model-len", "64"]
    engine += ["--block-size", "32", "--no-enable-chunked-prefill", "--enforce-eager"]
    lora = ["--enable-lora", "--max-lora-rank", "8", "--max-loras", "2"]
    with vllm_server(directory, *engine, *lora, "--logprobs-mode", "processed_logprobs") as url:
        fit = settings(directory, engine="vllm-server", servers={"urls": [url], "adapters": str(tmp_path / "adapters")})
        roles = Roles(base, fit.weights, fit.lora, merges=False)
        with contextlib.closing(ServerRollout(roles, fit.rollout, END)) as sampler:
            speaks_as_the_current_weights(roles, sampler, 0.7, reference_apart=True)
        served = {card["id"] for card in httpx2.get(f"{url}/v1/models").json()["data"]}
    assert served == {str(directory), *(path.name for path in (tmp_path / "adapters").iterdir())}
    assert len(served) == 3
