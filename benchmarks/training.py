"""What training costs on the built-in model, as ratios of things that run in the same run.

    python -m benchmarks.training [--repeats 3]

Every figure is of real steps by the real trainer, with prompts of about 50 tokens. Writes benchmarks/training.json and
a table of docs/benchmarks.md.

    (a) peak memory of a process that trains two adapters / one that trains one, both on one base       at most 1.15
    (b) the judge's share of a step, two attribute heads (a probe trained here on made-up scores)       at most 0.25
    (c) answers of a batch of 32 through vLLM in the process / by Hugging Face generate, tokens/s       at least 1.5

In (c) every system brings the weights up to date first, and that counts: vLLM takes the merged weights into its engine,
the others merge into a copy. An answer ends at its end token or at 64 tokens; tokens are those of the answers, not what
a batch computes beyond them. Systems take turns. CPU seconds are all threads' of the process: where neighbours share
the machine, their ratio says more than that of wall times.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from benchmarks.prompts import SENTENCES, TASKS, prompts
from benchmarks.report import write
from slhf_server.builtin.catalogue import NAME, built_in
from slhf_server.settings.server import Settings
from slhf_training.config import read_config
from slhf_training.fit import FitSettings
from slhf_training.fit.trainer import build_roles, build_trainer, load_model
from slhf_training.models.load import bf16_is_fast, end_ids_of
from slhf_training.models.prompts import Prompts
from slhf_training.models.roles import Roles
from slhf_training.models.scoring import left_padded
from slhf_training.preference import Preference, preference_of
from slhf_training.reward import RewardTraining
from slhf_training.reward.run import train as train_reward
from slhf_training.rollout import Rollout
from slhf_training.rollout.hf import HFRollout
from slhf_training.rollout.vllm import VLLMRollout
from slhf_training.types import Chat, Ids, Probabilities, Sample

STEPS, CHATS, NEW, BATCH, LONGER = 2, 4, 48, 32, 64
DTYPE = "bfloat16" if bf16_is_fast() else "float32"
OURS, VLLM, GENERATE = "own loop", "vLLM", "Hugging Face generate"
LIMITS = {"memory": "<= 1.15", "judge": "<= 0.25", "rollout": ">= 1.5"}


def settings(model: Path, directory: Path, **changes: Any) -> FitSettings:
    base: dict[str, Any] = {
        "model": str(model),
        "output_dir": str(directory / "run"),
        "data": {"files": ["unread.jsonl"]},  # chats and judges are handed over as they are
        "preference": {"kind": "callable", "function": "benchmarks.training:fewer_words"},
        "optimisation": {"steps": STEPS, "batch_size": CHATS, "micro_batch_size": 4},
        "rollout": {"max_new_tokens": NEW, "dtype": DTYPE, "batch_size": BATCH},
        "report_to": [],
    }
    return FitSettings.model_validate(base | changes)


def chats(model: Path, count: int, seed: int) -> list[Chat]:
    texts = prompts(count, 50, seed, AutoTokenizer.from_pretrained(model))
    return [[{"role": "user", "content": text}] for text in texts]


def fewer_words(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
    """A judge that takes no time and no memory."""
    return np.array([float(len(a.split()) < len(b.split())) for a, b in zip(first, second, strict=True)])


def steps(fit: FitSettings, preference: Preference, model: Path) -> dict[str, float]:
    """Means over the steps of what the trainer logs, and this process's peak memory."""
    trainer = build_trainer(fit, chats(model, CHATS * STEPS, seed=0), preference)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "seconds/step" in entry]
    assert len(logged) == STEPS
    means = {
        key: statistics.mean(entry[key] for entry in logged)
        for key in logged[0]
        if key.startswith(("seconds", "tokens"))
    }
    return means | {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def one_adapter(model: Path, directory: Path) -> Any:
    return steps(settings(model, directory, weights="shared"), fewer_words, model)


def two_adapters(model: Path, directory: Path) -> Any:
    return steps(settings(model, directory, weights="separate"), fewer_words, model)


def attributes(model: Path, directory: Path) -> Any:
    """Steps with a judge by attributes."""
    rows = [
        {"prompt": task, "response": said, "scores": {"length": len(said.split()), "commas": said.count(",")}}
        for number, task in enumerate(TASKS * 4)
        for said in [" ".join(SENTENCES[number % 7 : number % 7 + number % 3 + 1])]
    ]
    (directory / "scores.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    heads = ", ".join(
        f"{name}: {{loss: regression, attribute: {name}, data: {{files: [scores.jsonl]}}}}"
        for name in ("length", "commas")
    )
    config = directory / "preference.yaml"
    config.write_text(
        f"backbone: {model}\noutput: reward\nlayers: [16, 20, 24]\ntraining: {{method: probe}}\n"
        f"validation: 0.3\nheads: {{{heads}}}\n",
        encoding="utf-8",
    )
    train_reward(read_config(config, RewardTraining))
    fit = settings(model, directory, preference={"kind": "attributes", "model": str(directory / "reward")})
    return steps(fit, preference_of(fit.preference), model)


class Generate:
    """transformers' own `generate` on the merged copy."""

    def __init__(self, roles: Roles, fit: FitSettings, end_ids: frozenset[int]) -> None:
        self._roles, self._fit, self._end_ids = roles, fit, end_ids

    @torch.no_grad()
    def sample(self, asked: Sequence[Ids], player: Any, seeds: Sequence[int]) -> list[Sample]:
        model = self._roles.merged(player)
        ids, mask = left_padded(asked, torch.device("cpu"))
        torch.manual_seed(seeds[0])
        chosen = self._fit.rollout
        ends = sorted(self._end_ids)
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=chosen.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=chosen.max_new_tokens,
            eos_token_id=ends,
            pad_token_id=ends[0],
        )
        return [self._until_the_end(row) for row in out[:, ids.shape[1] :].tolist()]

    def _until_the_end(self, ids: list[int]) -> Sample:
        end = next((i + 1 for i, token in enumerate(ids) if token in self._end_ids), len(ids))
        return Sample(tuple(ids[:end]), (), ended=ids[end - 1] in self._end_ids)


def rollouts(model: Path, directory: Path, repeats: int) -> list[dict[str, dict[str, float]]]:
    """By repeat and system: tokens of 32 answers, and the wall and CPU seconds they took."""
    fit = settings(
        model,
        directory,
        rollout={"engine": "vllm", "dtype": DTYPE, "batch_size": BATCH, "max_new_tokens": LONGER}
        | {"vllm": {"max_model_len": 1024, "kv_cache_memory_bytes": 1 << 29} if not torch.cuda.is_available() else {}},
    )
    tokenizer, base = load_model(fit)
    reader = Prompts(tokenizer, fit.follower_turn, end_ids_of(base))
    copying = fit.model_copy(update={"rollout": fit.rollout.model_copy(update={"engine": "hf", "vllm": {}})})
    roles = build_roles(copying, base)
    systems: dict[str, Rollout] = {
        GENERATE: Generate(roles, fit, reader.end_ids),
        OURS: HFRollout(roles, copying.rollout, reader.end_ids),
        VLLM: VLLMRollout(roles, fit.model, fit.rollout, fit.seed, reader.end_ids),
    }
    asked = [reader.leader(chat) for chat in chats(model, BATCH, seed=1)]
    for system in systems.values():
        system.sample(asked[:2], "leader", [0, 1])  # warm: kernels
    found = []
    for repeat in range(repeats):
        seeds = range(BATCH * repeat, BATCH * (repeat + 1))
        changed(roles)
        found.append({name: timed(system, asked, seeds) for name, system in systems.items()})
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    return found


@torch.no_grad()
def changed(roles: Roles) -> None:
    """As by a step: vLLM asks for weights only after one, and then finds no prompt in its cache."""
    for parameters in roles.trained.values():
        for parameter in parameters:
            parameter.mul_(1.0)


def timed(system: Rollout, asked: Sequence[Ids], seeds: Sequence[int]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    samples = system.sample(asked, "leader", seeds)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"tokens": sum(len(one.ids) for one in samples), "wall_s": wall, "cpu_s": cpu}


def part(name: str, repeats: int) -> Any:
    """One part in a process of its own: peak memory is a process's, and an engine leaves much behind."""
    command = [sys.executable, "-m", "benchmarks.training", "--part", name, "--repeats", str(repeats)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    print(name, done.stdout.splitlines()[-1], flush=True)
    return json.loads(done.stdout.splitlines()[-1])


PARTS = ("one_adapter", "two_adapters", "attributes", "rollouts")


def run_part(name: str, repeats: int) -> None:
    model = built_in(f"builtin:{NAME}", Settings())
    with tempfile.TemporaryDirectory() as directory:
        match name:
            case "one_adapter":
                found = one_adapter(model, Path(directory))
            case "two_adapters":
                found = two_adapters(model, Path(directory))
            case "attributes":
                found = attributes(model, Path(directory))
            case _:
                found = rollouts(model, Path(directory), repeats)
    print(json.dumps(found))


def run(repeats: int) -> dict[str, Any]:
    others = os.getloadavg()[0]
    found = {name: part(name, repeats) for name in PARTS}
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {DTYPE}; load "
        f"average before the run {others:.1f}, after it {os.getloadavg()[0]:.1f}",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("slhf-training", "torch", "transformers", "peft")}
        | {"vllm": __import__("vllm").__version__},
        **found,
    }


def tables(figures: dict[str, Any]) -> str:
    """Markdown: the ratios against their limits, the rollouts behind (c), and a step's phases."""
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    one, two, judged = (figures[name] for name in PARTS[:3])
    share = judged["seconds/judge"] / judged["seconds/step"]
    repeats = figures["rollouts"]

    def ratio(seconds: str) -> float:
        return statistics.median(speed(r[VLLM], seconds) / speed(r[GENERATE], seconds) for r in repeats)

    lines = [f"{figures['date']}, {figures['machine']}. {versions}.", ""]
    lines += ["| ratio | measured | wanted |", "|---|---|---|"]
    lines += [
        f"| (a) peak memory, two adapters / one | {two['peak_mib'] / one['peak_mib']:.3f} | {LIMITS['memory']} |",
        f"| (b) the judge's share of a step | {share:.3f} | {LIMITS['judge']} |",
        f"| (c) tokens/s, vLLM / generate | {ratio('wall_s'):.2f} | {LIMITS['rollout']} |",
        f"| (c) tokens per CPU second, vLLM / generate | {ratio('cpu_s'):.2f} | {LIMITS['rollout']} |",
        "",
        "| 32 answers | tokens | tokens/s | tokens per CPU second |",
        "|---|---|---|---|",
    ]
    for name in (GENERATE, OURS, VLLM):
        rows = [r[name] for r in repeats]
        figures_of = (statistics.median(speed(row, key) for row in rows) for key in ("wall_s", "cpu_s"))
        tokens = statistics.median(row["tokens"] for row in rows)
        lines.append(f"| {name} | {tokens:.0f} | " + " | ".join(f"{figure:.0f}" for figure in figures_of) + " |")
    phases = ("rollout", "judge", "reference", "forward_backward", "update", "step")
    lines += ["", f"| step of {CHATS} chats | peak MiB | " + " | ".join(f"{phase} s" for phase in phases) + " |"]
    lines.append("|---" * (len(phases) + 2) + "|")
    for name, row in (("one adapter", one), ("two adapters", two), ("two, attributes judge", judged)):
        spent = " | ".join(f"{row.get(f'seconds/{phase}', 0):.2f}" for phase in phases)
        lines.append(f"| {name} | {row['peak_mib']:.0f} | {spent} |")
    return "\n".join(lines) + "\n"


def speed(row: dict[str, float], seconds: str) -> float:
    return row["tokens"] / row[seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--part", choices=PARTS, help="only this part, as JSON: what the whole starts in processes")
    arguments = parser.parse_args()
    if arguments.part:
        run_part(arguments.part, arguments.repeats)
    else:
        figures = run(arguments.repeats)
        write("training", figures, tables(figures))


if __name__ == "__main__":
    main()
