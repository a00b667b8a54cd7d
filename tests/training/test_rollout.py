"""Sampling with transformers: each answer from its own seed, by the policy at one temperature."""

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from slhf_training.errors import SettingsError
from slhf_training.models import Lora
from slhf_training.models.roles import Roles
from slhf_training.models.scoring import answer_log_probs
from slhf_training.rollout import RolloutSettings
from slhf_training.rollout.hf import HFRollout, by_inverse_cdf, can_capture
from slhf_training.rollout.vllm import VLLMRollout
from slhf_training.types import ROLES, Ids, Player
from tests.training import tiny

SHORT, LONGER = (9, 4, 8, 10), (9, 4, 5, 6, 7, 8, 10)
CPU = torch.device("cpu")


def roles() -> Roles:
    found = Roles(tiny.model(), "separate", Lora(r=4, alpha=8))
    torch.manual_seed(1)
    for parameters in found.trained.values():
        for parameter in parameters:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return found


def rollout(of: Roles, batch_size: int = 64, mixture: float = 0.0, temperature: float = 0.7, new: int = 6) -> HFRollout:
    chosen = RolloutSettings(max_new_tokens=new, temperature=temperature, batch_size=batch_size, dtype="float32")
    return HFRollout(of, chosen, frozenset([tiny.END]), mixture)


def test_an_answer_depends_on_its_seed_and_not_on_its_batch() -> None:
    of = roles()
    prompts: list[Ids] = [SHORT, LONGER] * 8
    together = rollout(of).sample(prompts, "leader", range(16))
    apart = rollout(of, batch_size=3).sample(prompts, "leader", range(16))
    assert [s.ids for s in together] == [s.ids for s in apart]
    alone = rollout(of).sample([LONGER], "leader", [5])
    assert alone[0].ids == together[5].ids
    assert len({s.ids for s in together}) > 8


def test_answers_to_one_prompt_are_those_it_gets_alone() -> None:
    of = roles()
    prompts: list[Ids] = [SHORT, SHORT, LONGER, SHORT, LONGER]
    together = rollout(of).sample(prompts, "follower", range(5))
    for seed, (prompt, sample) in enumerate(zip(prompts, together, strict=True)):
        alone = rollout(of).sample([prompt], "follower", [seed])[0]
        assert alone.ids == sample.ids
        assert alone.logps == pytest.approx(sample.logps, abs=1e-5)


@pytest.mark.parametrize("player", ["leader", "follower", "reference", "mixture"])
def test_fixed_shapes_give_the_same_answers(player: Player) -> None:
    """As on a GPU, but that the step is run and not captured; batches shrink and grow."""
    of = roles()
    chosen = RolloutSettings(max_new_tokens=40, temperature=0.7, dtype="float32")
    usual, fixed = (HFRollout(of, chosen, frozenset([tiny.END]), 0.25, captured) for captured in (False, True))
    for prompts in ([SHORT], [SHORT, LONGER, SHORT] * 6, [LONGER, LONGER]):
        seeds = range(len(prompts))
        expected, found = (each.sample(prompts, player, seeds) for each in (usual, fixed))
        assert [s.ids for s in found] == [s.ids for s in expected]
        assert [s.ended for s in found] == [s.ended for s in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.logps == pytest.approx(other.logps, abs=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
@pytest.mark.parametrize("player", ["leader", "follower", "reference", "mixture"])
def test_a_captured_step_gives_the_same_answers(player: Player) -> None:
    of = roles()
    of.model.cuda()
    chosen = RolloutSettings(max_new_tokens=40, temperature=0.7, dtype="float32")
    usual, captured = (HFRollout(of, chosen, frozenset([tiny.END]), 0.25, graph) for graph in (False, None))
    for prompts in ([SHORT], [SHORT, LONGER, SHORT] * 6):
        expected, found = (each.sample(prompts, player, range(len(prompts))) for each in (usual, captured))
        assert [s.ids for s in found] == [s.ids for s in expected]


def test_fixed_shapes_follow_the_weights() -> None:
    of = roles()
    fixed = HFRollout(of, RolloutSettings(max_new_tokens=6, dtype="float32"), frozenset([tiny.END]), captured=True)
    before = fixed.sample([SHORT] * 16, "leader", range(16))
    for parameter in of.trained["leader"]:
        parameter.data.zero_()
    after = fixed.sample([SHORT] * 16, "leader", range(16))
    assert [s.ids for s in before] != [s.ids for s in after]
    reference = fixed.sample([SHORT] * 16, "reference", range(16))
    assert [s.ids for s in after] == [s.ids for s in reference]


def test_a_model_that_forgets_is_not_captured() -> None:
    model = tiny.model()
    assert can_capture(model)
    model.config.layer_types = ["full_attention", "sliding_attention"]
    assert not can_capture(model)


def test_answers_end_with_the_end_token_or_at_the_limit() -> None:
    samples = rollout(roles()).sample([SHORT] * 64, "follower", range(64))
    assert {s.ended for s in samples} == {True, False}
    for sample in samples:
        assert sample.ended == (sample.ids[-1] == tiny.END)
        assert tiny.END not in sample.ids[:-1]
        assert sample.ended or len(sample.ids) == 6
        assert len(sample.logps) == len(sample.ids)


@pytest.mark.parametrize("player", ["leader", "follower", "reference"])
def test_its_log_probs_are_those_that_are_trained(player: Player) -> None:
    of = roles()
    prompts: list[Ids] = [SHORT, LONGER] * 8
    samples = rollout(of).sample(prompts, player, range(16))
    model = of.use(player) if player in ROLES else of.use_reference()
    with torch.no_grad():
        learnt = answer_log_probs(model, prompts, [s.ids for s in samples], 0.7, CPU)
    for row, sample in zip(learnt.tolist(), samples, strict=True):
        assert row[: len(sample.ids)] == pytest.approx(sample.logps, abs=1e-4)


def test_the_mixture_is_geometric_token_by_token() -> None:
    """Share 1/4 of the reference: log-probs 3/4 log policy + 1/4 log reference, normalised."""
    of = roles()
    samples = rollout(of, mixture=0.25, new=1).sample([SHORT] * 32, "mixture", range(32))
    every = [(i,) for i in range(tiny.VOCABULARY)]
    with torch.no_grad():
        policy = answer_log_probs(of.use("leader"), [SHORT] * len(every), every, 0.7, CPU)[:, 0]
        reference = answer_log_probs(of.use_reference(), [SHORT] * len(every), every, 0.7, CPU)[:, 0]
    expected = torch.log_softmax(0.75 * policy + 0.25 * reference, dim=0).tolist()
    for sample in samples:
        assert sample.logps[0] == pytest.approx(expected[sample.ids[0]], abs=1e-4)


def test_tokens_come_as_often_as_they_should() -> None:
    """3,000 draws: five standard errors of a frequency are at most 5 * sqrt(1/4 / 3000) = 0.046."""
    of = roles()
    draws = Counter(s.ids[0] for s in rollout(of, batch_size=3000, new=1).sample([SHORT] * 3000, "leader", range(3000)))
    every = [(i,) for i in range(tiny.VOCABULARY)]
    with torch.no_grad():
        expected = answer_log_probs(of.use("leader"), [SHORT] * len(every), every, 0.7, CPU)[:, 0].exp().tolist()
    assert [draws[i] / 3000 for i in range(tiny.VOCABULARY)] == pytest.approx(expected, abs=0.046)


def test_vllm_that_is_not_installed_is_named_with_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = tiny.settings(tmp_path, rollout={"engine": "vllm"})
    monkeypatch.setitem(sys.modules, "vllm", None)  # Python's own way to say that there is none
    with pytest.raises(SettingsError, match="rollout.engine: vllm needs the package vllm"):
        VLLMRollout(roles(), fit.model, fit.rollout, fit.seed, frozenset([tiny.END]))


def test_vllm_is_given_the_files_of_a_model_that_is_built_in(
    tmp_path: Path, builtin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows no `builtin:` names. tests/training/test_rollout_vllm.py asks the real one."""
    asked: list[str] = []

    def refused(**arguments: Any) -> Any:
        asked.append(arguments["model"])
        raise ValueError("enough")

    installed(monkeypatch, refused)
    fit = tiny.settings(tmp_path, model="builtin:smollm2-135m", rollout={"engine": "vllm"})
    with pytest.raises(SettingsError, match="rollout.vllm: enough"):
        VLLMRollout(roles(), fit.model, fit.rollout, fit.seed, frozenset([tiny.END]))
    assert asked == [str(builtin)]


class Engine:
    """An LLM of vLLM, and the engine within it, that notes what it is told, and says END to everything."""

    def __init__(self, **arguments: Any) -> None:
        self.model_config = SimpleNamespace(enable_sleep_mode=arguments["enable_sleep_mode"])
        self.llm_engine = self
        self.told: list[Any] = []
        self.weights: dict[str, torch.Tensor] = {}
        self.salts: list[str] = []
        self._waiting: list[str] = []

    def collective_rpc(self, method: str, kwargs: Any) -> None:
        self.told.append(method)
        self.weights = dict(kwargs["weights_iterator"])

    def add_request(self, name: str, prompt: Any, parameters: Any) -> None:
        self.salts.append(prompt["cache_salt"])
        self._waiting.append(name)

    def step(self) -> list[Any]:
        self.told.append("step")
        said = SimpleNamespace(
            token_ids=[tiny.END], logprobs=[{tiny.END: SimpleNamespace(logprob=0.0)}], finish_reason="stop"
        )
        written, self._waiting = self._waiting, []
        return [SimpleNamespace(request_id=name, outputs=[said]) for name in written]

    def sleep(self, level: int) -> None:
        self.told.append(("sleep", level))

    def wake_up(self, tags: list[str]) -> None:
        self.told.append(("wake_up", *tags))


def installed(monkeypatch: pytest.MonkeyPatch, llm: Any, can_sleep: bool = False) -> None:
    """Have `llm` for vLLM's, on a platform whose memory can be given back or cannot."""
    platform = SimpleNamespace(is_cpu=lambda: not can_sleep, is_sleep_mode_available=lambda: can_sleep)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=llm, SamplingParams=SimpleNamespace))
    monkeypatch.setitem(sys.modules, "vllm.inputs", SimpleNamespace(tokens_input=lambda ids, cache_salt: locals()))
    kinds = SimpleNamespace(FINAL_ONLY=2)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", SimpleNamespace(RequestOutputKind=kinds))
    monkeypatch.setitem(sys.modules, "vllm.platforms", SimpleNamespace(current_platform=platform))


def with_engine(of: Roles, monkeypatch: pytest.MonkeyPatch, can_sleep: bool = False) -> tuple[VLLMRollout, Engine]:
    installed(monkeypatch, Engine, can_sleep)
    chosen = RolloutSettings(engine="vllm", dtype="float32")
    sampler = VLLMRollout(of, "./tiny", chosen, 0, frozenset([tiny.END]))
    engine = sampler._llm
    assert isinstance(engine, Engine)
    return sampler, engine


def asked(sampler: VLLMRollout, engine: Engine, *players: Player) -> int:
    """How often the engine got weights for answers of these players."""
    before = engine.told.count("reload_weights")
    for player in players:
        assert [sample.ids for sample in sampler.sample([SHORT, LONGER], player, [0, 1])] == [(tiny.END,)] * 2
    return engine.told.count("reload_weights") - before


def step(of: Roles, *names: str) -> None:
    """One of Adam's, of the parameters of these names."""
    parameters = [parameter for name in names for parameter in of.trained[name]]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(parameters, lr=1e-2).step()


def test_vllm_gets_weights_only_where_it_has_others(monkeypatch: pytest.MonkeyPatch) -> None:
    of = roles()
    sampler, engine = with_engine(of, monkeypatch)
    assert asked(sampler, engine, "leader", "leader") == 1
    assert asked(sampler, engine, "follower", "follower") == 1
    step(of, "leader")
    assert asked(sampler, engine, "follower") == 0
    assert asked(sampler, engine, "leader") == 1
    assert len({*engine.salts[:4]}) == 1  # two answers of the Leader's, twice
    assert len({*engine.salts}) == 3  # the Follower's did not change
    expected = dict(of.merged_weights("leader"))
    assert engine.weights.keys() == expected.keys()
    assert all(torch.equal(engine.weights[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("weights", ["shared", "full"])
def test_what_both_roles_share_goes_to_vllm_once_and_its_cache_serves_both(
    weights: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    of = Roles(tiny.model(), weights, Lora(r=4))
    sampler, engine = with_engine(of, monkeypatch)
    assert asked(sampler, engine, "leader", "follower", "leader") == 1
    of.save(tmp_path)
    step(of, "policy")
    assert asked(sampler, engine, "leader", "follower") == 1
    of.load(tmp_path)
    assert asked(sampler, engine, "leader", "reference", "follower") == 3
    assert len({*engine.salts}) == 4


def test_vllm_gives_its_memory_back_and_wakes_with_the_next_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights first and its cache last: what is gathered meanwhile needs room, too (vLLM's sleep mode, level 2)."""
    sampler, engine = with_engine(Roles(tiny.model(), "shared", Lora(r=4)), monkeypatch, can_sleep=True)
    sampler.sample([SHORT], "leader", [0])
    engine.told.clear()
    sampler.sleep()
    sampler.sample([SHORT], "follower", [0])
    sampler.sample([SHORT], "leader", [0])
    waking = [("wake_up", "weights"), "reload_weights", ("wake_up", "kv_cache")]
    assert engine.told == [("sleep", 2), *waking, "step", "step"]


def test_vllm_that_cannot_sleep_is_not_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, engine = with_engine(roles(), monkeypatch)
    sampler.sample([SHORT], "leader", [0])
    sampler.sleep()
    sampler.sample([SHORT], "leader", [0])
    assert engine.told == ["reload_weights", "step", "step"]


def test_inverse_cdf_never_takes_what_has_no_probability() -> None:
    log_probs = torch.tensor([[-np.inf, np.log(0.25), -np.inf, np.log(0.75), -np.inf]]).repeat(5, 1)
    uniform = torch.tensor([0.0, 0.2499, 0.2501, 0.9999, 1 - 1e-16], dtype=torch.float64)
    assert by_inverse_cdf(log_probs, uniform).tolist() == [1, 1, 3, 3, 3]
