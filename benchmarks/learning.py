"""What the learner of a fit holds and computes, beside one that makes all logits of a micro-batch at once.

    python -m benchmarks.learning [--repeats 2]
    python -m benchmarks.learning --profile "a part of the logits at a time" [--mode checkpointed]

Both learn from the same answers on the built-in model with its vocabulary of 49,152: a micro-batch of 8 for each role,
of 64 to 128 tokens, to prompts of about 50. Nothing is sampled and nothing judged. The peer makes log-probs as the
learner did until it made them of a part of the logits at a time: float32 logits for every token, padding included, and
their gradients; and it keeps a copy of what adapters read. Each runs in a process of its own, in turns. Writes
benchmarks/learning.json and a table of docs/benchmarks.md.

    (a) peak memory of the process / the peer's                                       at most 0.7
    (b) what the process holds at its peak beyond what it held before / the peer's
    (c) tokens learnt from per CPU second / the peer's                                at least 1

(a) and (b) also where gradients are checkpointed: then the layers' activations do not hide the logits. And two ways to
less memory beside the peer as it is by default: the learner under tcmalloc, which leaves fewer holes in the heap than
glibc does (where it is installed: Debian's libtcmalloc-minimal4), and with its frozen base in bfloat16, which makes
other numbers. `--profile` prints what is alive at the peak instead of measuring.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.alive import Alive
from benchmarks.report import occasion, write
from benchmarks.training import DTYPE, chats, settings
from slhf_server.builtin.catalogue import NAME, built_in
from slhf_server.settings.server import Settings
from slhf_training.fit import FitSettings
from slhf_training.fit.algorithms import Completion, Episode
from slhf_training.fit.learner import Learner, StepResult
from slhf_training.fit.step import Clock
from slhf_training.fit.trainer import build_roles, load_model
from slhf_training.models.prompts import Prompts
from slhf_training.models.scoring import answer_logits, right_padded
from slhf_training.types import ROLES, Chat, Ids, Sample

MICRO_BATCH, LONGEST = 8, 128
KEPT, CHECKPOINTED, TCMALLOC, NARROW = "kept", "checkpointed", "kept, under tcmalloc", "kept, base in bfloat16"
TCMALLOC_LIBRARY = find_library("tcmalloc_minimal")
"""None where it is not installed."""
MODES: dict[str, dict[str, Any]] = {
    KEPT: {},
    CHECKPOINTED: {"gradient_checkpointing": True},
    **({TCMALLOC: {}} if TCMALLOC_LIBRARY else {}),
    NARROW: {},
}
"""Of optimisation, by what a row calls it."""
BESIDE = {KEPT: KEPT, CHECKPOINTED: CHECKPOINTED, TCMALLOC: KEPT, NARROW: KEPT}
"""By which of the peer's rows each is divided."""
AUTOCAST = "bfloat16" if DTYPE == "bfloat16" else "none"
OURS, PEER = "a part of the logits at a time", "all logits at once"
COMPARED = [(name, mode) for mode in MODES for name in (OURS, PEER) if name == OURS or BESIDE[mode] == mode]
MOST_MEMORY, LEAST_SPEED = 0.7, 1.0


class AllLogits(Learner):
    """With peft's casts of what adapters read, too, of which autocast makes further copies."""

    def learn(self, rows: Sequence[Episode], leader_too: bool = True) -> StepResult:
        return self._learn(rows, leader_too)

    def _log_probs(self, model: Any, rows: Sequence[Episode]) -> Tensor:
        prompts, answers = [row.answer.prompt for row in rows], [row.answer.sample.ids for row in rows]
        device = self._roles.device
        with self._precision():
            logits = answer_logits(model, prompts, answers, device) / self._settings.rollout.temperature  # (B, T, V)
            chosen = logits.gather(2, right_padded(answers, device, torch.long)[:, :, None])[:, :, 0]
            return torch.as_tensor(chosen - logits.logsumexp(dim=-1))


LEARNERS: dict[str, type[Learner]] = {OURS: Learner, PEER: AllLogits}


def prepared(fit: FitSettings, asked: Sequence[Chat], kind: type[Learner]) -> tuple[Learner, list[Episode]]:
    """A learner that has learnt once, and what it is to learn."""
    tokenizer, base = load_model(fit)
    reader = Prompts(tokenizer, fit.follower_turn)
    roles = build_roles(fit, base)
    roles.model.train(fit.optimisation.gradient_checkpointing)
    learner = kind(roles, fit, Clock(), lambda ours: ours)
    answers = _answers(reader, asked, len(tokenizer))
    rows = [Episode(role, answer, 0.25, 1e-3, (role,)) for role in ROLES for answer in answers]
    learner.learn(rows[:1])  # warm: kernels
    return learner, rows


def learning(learner: Learner, rows: Sequence[Episode]) -> dict[str, float]:
    """Tokens that are learnt from, the CPU seconds of all threads, and MiB: before it learns, and at the peak."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew: loading has one of its own
    before, started = _mib("VmRSS"), time.process_time()
    learner.learn(rows)
    return {
        "tokens": sum(len(row.answer.sample.ids) for row in rows),
        "cpu_s": time.process_time() - started,
        "before_mib": before,
        "peak_mib": _mib("VmHWM"),
    }


def _answers(reader: Prompts, asked: Sequence[Chat], vocabulary: int) -> list[Completion]:
    """Words by lot: what a pass costs does not depend on which they are. Lengths are as unlike as sampled ones'."""
    rng = np.random.default_rng(0)
    found = []
    for number, chat in enumerate(asked):
        ids: Ids = tuple(rng.integers(100, vocabulary, rng.integers(LONGEST // 2, LONGEST + 1)).tolist())
        sample = Sample(ids, tuple(-1.0 for _ in ids), ended=True)
        found.append(Completion(number, reader.leader(chat), sample, ""))
    return found


def _mib(key: str) -> float:
    """A line of this process's status, which Linux gives in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1]) / 1024


def run_part(name: str, mode: str, profiled: bool) -> None:
    model = built_in(f"builtin:{NAME}", Settings())
    how = {"micro_batch_size": MICRO_BATCH, "autocast": AUTOCAST, **MODES[mode]}
    dtype = "bfloat16" if mode == NARROW else "float32"
    with tempfile.TemporaryDirectory() as directory:
        fit = settings(model, Path(directory), weights="shared", dtype=dtype, optimisation=how)
        learner, rows = prepared(fit, chats(model, MICRO_BATCH, seed=2), LEARNERS[name])
        if profiled:
            with Alive() as alive:
                learner.learn(rows)
            print(*alive.lines(), sep="\n")
        else:
            print(json.dumps(learning(learner, rows)))


def run(repeats: int) -> dict[str, Any]:
    where = occasion()
    rows = []
    for _ in range(repeats):
        for name, mode in COMPARED:
            command = [sys.executable, "-m", "benchmarks.learning", "--part", name, "--mode", mode]
            preloaded = {"LD_PRELOAD": TCMALLOC_LIBRARY} if mode == TCMALLOC and TCMALLOC_LIBRARY else {}
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=os.environ | preloaded)
            found = json.loads(done.stdout.splitlines()[-1])
            rows.append({"learner": name, "mode": mode, **found})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    threads = f"{torch.get_num_threads()} threads, float32 weights, autocast {AUTOCAST}"
    return {**where, "threads": threads, "torch": torch.__version__, "rows": rows}


def table(figures: dict[str, Any]) -> str:
    """Markdown: ratios of medians against their limits, and what is behind them."""
    lines = [f"{figures['date']}, {figures['machine']}, {figures['threads']}. torch {figures['torch']}.", ""]
    modes = list(dict.fromkeys(row["mode"] for row in figures["rows"]))
    lines += [f"| ratio | gradients {' | '.join(modes)} | wanted |", "|---" * (len(modes) + 2) + "|"]
    for name, key, wanted in (
        ("(a) peak memory", "peak", f"<= {MOST_MEMORY}"),
        ("(b) peak less what was held before", "more", ""),
        ("(c) tokens per CPU second", "speed", f">= {LEAST_SPEED}"),
    ):
        ratios = (_median(figures, OURS, mode, key) / _median(figures, PEER, BESIDE[mode], key) for mode in modes)
        lines.append(f"| {name} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} | {wanted} |")
    lines += ["", "| log-probs from | gradients | peak MiB | before MiB | tokens | tokens per CPU second |"]
    lines.append("|---" * 6 + "|")
    for name, mode in dict.fromkeys((row["learner"], row["mode"]) for row in figures["rows"]):
        shown = [_median(figures, name, mode, key) for key in ("peak", "before_mib", "tokens", "speed")]
        cells = f"{shown[0]:.0f} | {shown[1]:.0f} | {shown[2]:.0f} | {shown[3]:.1f}"
        lines.append(f"| {name} | {mode} | {cells} |")
    return "\n".join(lines) + "\n"


def _median(figures: dict[str, Any], learner: str, mode: str, key: str) -> float:
    rows = [row for row in figures["rows"] if (row["learner"], row["mode"]) == (learner, mode)]
    return statistics.median(_figure(row, key) for row in rows)


def _figure(row: dict[str, Any], key: str) -> float:
    match key:
        case "peak":
            return float(row["peak_mib"])
        case "more":
            return float(row["peak_mib"] - row["before_mib"])
        case "speed":
            return float(row["tokens"] / row["cpu_s"])
        case _:
            return float(row[key])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--part", choices=[*LEARNERS], help="only this learner, as JSON: what the whole starts")
    parser.add_argument("--profile", choices=[*LEARNERS], help="what is alive at this learner's peak")
    parser.add_argument("--mode", choices=[*MODES], default=KEPT, help="with --part and --profile")
    arguments = parser.parse_args()
    if arguments.part or arguments.profile:
        run_part(arguments.part or arguments.profile, arguments.mode, arguments.profile is not None)
    else:
        figures = run(arguments.repeats)
        write("learning", figures, table(figures))


if __name__ == "__main__":
    main()
