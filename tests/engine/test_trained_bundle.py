"""From `slhf-train fit` on the built-in model to the real server: what is served speaks as what was trained."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml

from slhf import Bundle, Client, OwnAnswers, write_bundle
from slhf_training.cli import main
from slhf_training.fit.run import settings_of
from slhf_training.fit.trainer import build_roles, load_model
from slhf_training.models.load import end_ids_of
from slhf_training.models.prompts import Prompts
from slhf_training.types import Chat, Role
from tests.engine.conftest import live_server

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

QUESTIONS = ["Why is the sky blue?", "Name a fruit.", "What is a server?", "Say hello."]
DRAFT = "Because of the air."
TOKENS = 16


def fewer_words(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> npt.NDArray[np.float64]:
    difference = [len(b.split()) - len(a.split()) for a, b in zip(first, second, strict=True)]
    return np.asarray((1 + np.sign(difference)) / 2, dtype=np.float64)


def trained_for_two_steps(builtin: Path, directory: Path) -> Path:
    """The run's directory. At this learning rate two steps change what the model says."""
    data = directory / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": question}) + "\n" for question in QUESTIONS))
    config = {
        "model": str(builtin),
        "output_dir": "run",
        "data": {"files": [data.name]},
        "preference": {"kind": "callable", "function": f"{__name__}:fewer_words"},
        "lora": {"r": 4, "alpha": 8},
        "optimisation": {"steps": 2, "batch_size": 4, "learning_rate": 5e-3, "schedule": "constant"},
        "rollout": {"max_new_tokens": TOKENS, "dtype": "float32"},
        "report_to": [],
    }
    (directory / "fit.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", str(directory / "fit.yaml")]) == 0
    return directory / "run"


@torch.no_grad()
def greedy(run: Path, role: Role, question: str, draft: str | None) -> str:
    """What the run's model says in transformers."""
    settings = settings_of(run)
    tokenizer, base = load_model(settings)
    prompts = Prompts(tokenizer, settings.follower_turn, end_ids_of(base))
    roles = build_roles(settings, base)
    roles.load(run / "checkpoint-2")
    chat: Chat = [{"role": "user", "content": question}]
    if draft is None:
        ids = prompts.leader(chat)
    else:
        ids = prompts.follower(chat, tuple(tokenizer.encode(draft, add_special_tokens=False)))
    found = roles.merged(role).generate(torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False)
    return prompts.text(tuple(found[0, len(ids) :].tolist())).rstrip("\ufffd")  # half a character is not served


def test_a_trained_bundle_is_served_unchanged_and_speaks_as_it_was_trained(builtin: Path, tmp_path: Path) -> None:
    """Its Follower merged, its Leader with an adapter on top of that, both in one batch."""
    run = trained_for_two_steps(builtin, tmp_path)
    assert main(["export", str(run), str(tmp_path / "bundle"), "--name", "two-steps"]) == 0
    with (
        live_server(tmp_path, "--bundle", str(tmp_path / "bundle"), "--engine", "dtype=float32") as server,
        Client(server.url, timeout=300) as client,
    ):
        (model,) = client.models()
        assert (model.card["trained"], model.card["roles"]) == ("stackelberg", "separate")
        outputs = answered_together(client, [(question, draft) for question in QUESTIONS for draft in (None, DRAFT)])
        assert outputs[::2] == [greedy(run, "leader", question, None) for question in QUESTIONS]
        assert outputs[1::2] == [greedy(run, "follower", question, DRAFT) for question in QUESTIONS]
        assert outputs[1] != greedy(run, "leader", QUESTIONS[0], DRAFT)


def answered_together(client: Client, asked: Sequence[tuple[str, str | None]]) -> list[str]:
    """In one batch: the Leader's answer where there is no draft, else one refinement of it."""

    def answer(one: tuple[str, str | None]) -> str:
        question, draft = one
        rounds = 0 if draft is None else 1
        return client.refine(question, draft=draft, rounds=rounds, max_tokens=TOKENS, temperature=0.0).output

    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(answer, asked))


def test_what_is_built_in_and_trained_is_served_without_adapters(tmp_path: Path) -> None:
    with (
        live_server(tmp_path, "--bundle", "builtin:smollm2-135m-slhf") as server,
        Client(server.url, timeout=300) as client,
    ):
        (model,) = client.models()
        assert (model.id, model.root) == ("smollm2-135m-slhf", "builtin:smollm2-135m")
        assert (model.card["trained"], model.card["roles"]) == ("stackelberg", "shared")
        assert model.card["evaluation"]
        refined = client.refine(QUESTIONS[0], draft=DRAFT, rounds=2, max_tokens=TOKENS)
        assert [turn.role for turn in refined.refinement.rounds] == ["client", "follower", "follower"]
        assert server.metric("vllm:lora_requests_info") == 0


def test_a_bundle_with_own_answers_writes_them_before_each_round_and_counts_them(tmp_path: Path) -> None:
    """At temperature 0 they differ from each other, and a second request gets the same text."""
    (directory := tmp_path / "bundle").mkdir()
    own = OwnAnswers(count=3, max_tokens=TOKENS, temperature=0.5)
    write_bundle(directory, Bundle(name="own", base_model="builtin:smollm2-135m", own_answers=own))
    with (
        live_server(tmp_path, "--bundle", str(directory), "--engine", "dtype=float32") as server,
        Client(server.url, timeout=300) as client,
    ):
        before = server.metric("vllm:request_success_total")
        first, second = (
            client.refine(QUESTIONS[1], draft=DRAFT, rounds=2, max_tokens=TOKENS, temperature=0.0) for _ in range(2)
        )
        assert first.output == second.output
        assert server.metric("vllm:request_success_total") - before == 2 * 2 * (own.count + 1)
        for usage in first.refinement.usage.rounds:
            written = usage.completion_tokens_details.reasoning_tokens
            assert own.count <= written <= own.count * TOKENS
            assert written < usage.completion_tokens <= (own.count + 1) * TOKENS
