"""Distills a bundle: the teachers write, the best answers are chosen, and one adapter learns them."""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from filecmp import cmpfiles
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import PeftModel, get_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer

from slhf import Bundle, RoleWeights, write_bundle
from slhf.bundle import CARD
from slhf_training.config import portable
from slhf_training.data.load import load
from slhf_training.distill import DistillSettings
from slhf_training.distill.learning import (
    Candidates,
    DistillationExample,
    Distiller,
    DraftedChat,
    choose,
    follower_examples,
    leader_examples,
)
from slhf_training.errors import SettingsError
from slhf_training.evaluation import fingerprint
from slhf_training.evaluation.answers import Answer, Store
from slhf_training.evaluation.generation import BundlePolicies, Teacher, Wanted
from slhf_training.evaluation.run import OpenModel, open_model
from slhf_training.fit.optimisation import checkpoint_gradients
from slhf_training.fit.run import goes_on_from, start_run
from slhf_training.models.adapters import factors_of, mixed, write_factors
from slhf_training.models.bundles import open_bundle
from slhf_training.models.load import end_ids_of, fast_dtype
from slhf_training.models.prompts import Prompts
from slhf_training.preference import preference_of
from slhf_training.types import ROLES, Role

if TYPE_CHECKING:
    from slhf_training.models.bundles import OpenBundle

TEXTS, BUNDLE, ADAPTER = "texts.jsonl", "bundle", "policy"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Teachers:
    leader: "OpenBundle"
    follower: "OpenBundle"
    start: "OpenBundle"
    adapter: Path
    """The adapter that the student starts from."""


def distill(settings: DistillSettings, name: str, opened: OpenModel | None = None) -> Bundle:
    """Train and return the bundle, which lies in `bundle` of the output directory. A run that was killed goes on.

    Raises SettingsError, DataError, EngineError and JudgeError; what was written is kept.
    """
    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise SettingsError(f"distill runs in one process, and this is one of {processes}")
    temperature = settings.generation.temperature
    if not temperature:
        raise SettingsError("generation.temperature: the distributions that are learnt need one above 0")
    if (target := settings.output_dir / BUNDLE).exists():
        raise SettingsError(f"output_dir: {target} exists already")
    last = goes_on_from(settings)
    teachers = _teachers(settings)
    base = AutoModelForCausalLM.from_pretrained(teachers.follower.weights, dtype=fast_dtype())
    lessons = _lessons(settings, teachers, end_ids_of(base), opened or open_model)
    student = PeftModel.from_pretrained(base, teachers.adapter, is_trainable=True)
    checkpoint_gradients(student, settings)
    speakers: dict[Role, BundlePolicies] = {
        "leader": BundlePolicies(teachers.leader),
        "follower": BundlePolicies(teachers.follower),
    }
    trainer = Distiller(student, speakers, lessons, settings, temperature)
    start_run(settings)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    return _bundle(settings, name, teachers, trainer.model, target)


def _teachers(settings: DistillSettings) -> Teachers:
    leader, follower = open_bundle("leader", settings.leader), open_bundle("follower", settings.follower)
    start = open_bundle("start", settings.start) if settings.start else follower
    adapter = start.adapter("follower")
    if adapter is None:
        key, name = ("start", settings.start) if settings.start else ("follower", settings.follower)
        raise SettingsError(f"{key}: {name} has no adapter to start from")
    if settings.weights == "separate" and not _same_base(leader.weights, follower.weights):
        raise SettingsError(
            f"leader: {settings.leader} has another base than {settings.follower}, and weights: separate"
        )
    return Teachers(leader, follower, start, adapter)


def _same_base(one: Path, other: Path) -> bool:
    """Return whether two directories are one, or hold the same weights."""
    names = {path.name for directory in (one, other) for path in directory.glob("*.safetensors")}
    return one == other or set(cmpfiles(one, other, names, shallow=False)[0]) == names


def _lessons(
    settings: DistillSettings, teachers: Teachers, end_ids: list[int], opened: OpenModel
) -> list[DistillationExample]:
    leader, follower = teachers.leader, teachers.follower
    tokenizer = AutoTokenizer.from_pretrained(follower.weights)
    if tokenizer.get_vocab() != AutoTokenizer.from_pretrained(leader.weights).get_vocab():
        raise SettingsError(f"leader: {settings.leader} has another vocabulary than {settings.follower}")
    chats = [example.chat for data in settings.prompts for example in load(data)]
    examples = chain.from_iterable(map(load, settings.drafts))
    given = [DraftedChat(example.chat, Answer(text)) for example in examples for text in example.answers]
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    with Store(settings.output_dir / TEXTS) as store:
        answers = _writer("leader", leader, settings, opened).write([Wanted(chat) for chat in chats], store)
        own = [
            DraftedChat(chat, answer) for chat, answer in zip(chats, answers, strict=True) if answer.text is not None
        ]
        groups = _refined(settings, _writer("follower", follower, settings, opened), [*own, *given], store)
    chosen: list[int | None] = [None] * len(groups)
    if settings.best_of:
        chosen = choose(groups, preference_of(settings.best_of.preference), settings.best_of.edit_cost)
    prompts = Prompts(tokenizer, follower.manifest.follower_turn, end_ids)
    end, most = tokenizer.eos_token_id, settings.max_prompt_tokens
    lessons = leader_examples(chats, answers, prompts, end, most) if settings.weights == "shared" else []
    share = settings.best_of.share if settings.best_of else 0.0
    lessons += follower_examples(groups, chosen, share, prompts, end, most)
    _LOG.info("%d lessons; %d drafts were refined", len(lessons), len(groups))
    return lessons


def _writer(role: Role, bundle: "OpenBundle", settings: DistillSettings, opened: OpenModel) -> Teacher:
    spec, how = getattr(settings, role), settings.generation
    return Teacher(fingerprint(bundle, how), settings.seed, lambda: opened(role, bundle, spec, how))


def _refined(
    settings: DistillSettings,
    follower: Teacher,
    drafted: Sequence[DraftedChat],
    store: Store,
) -> list[Candidates]:
    """Have the Follower refine the drafts round by round; the first answer to a draft is the next round's draft."""
    samples = settings.best_of.samples if settings.best_of else 1
    groups: list[Candidates] = []
    for _ in range(settings.rounds):
        wanted = [Wanted(one.chat, one.draft.text, sample) for one in drafted for sample in range(samples)]
        answers = iter(follower.write(wanted, store))
        found = [Candidates(one, tuple(islice(answers, samples))) for one in drafted]
        groups += found
        drafted = [DraftedChat(g.drafted.chat, g.refined[0]) for g in found if g.refined[0].text is not None]
    return groups


def _bundle(settings: DistillSettings, name: str, teachers: Teachers, model: Any, target: Path) -> Bundle:
    """Write the Follower's bundle with the new adapter in place of those it had. It appears when it is whole."""
    follower = teachers.follower
    staging = settings.output_dir / f".{BUNDLE}"
    shutil.rmtree(staging, ignore_errors=True)
    had = {path.name for role in ROLES if (path := follower.adapter(role)) is not None}
    shutil.copytree(follower.directory, staging, ignore=shutil.ignore_patterns(*had, CARD))
    adapter = ADAPTER if settings.weights == "shared" else "follower"
    shutil.copytree(teachers.adapter, staging / adapter)  # the new adapter keeps its configuration
    learnt = get_peft_model_state_dict(model, save_embedding_layers=False)
    write_factors(staging / adapter, mixed(factors_of(staging / adapter), learnt, settings.share))
    leader = RoleWeights(adapter=adapter)
    if settings.weights == "separate":
        own = teachers.leader.adapter("leader")
        leader = RoleWeights() if own is None else RoleWeights(adapter="leader")
        if own is not None:
            shutil.copytree(own, staging / "leader")
    manifest = follower.manifest.model_copy(
        update={
            "name": name,
            "leader": leader,
            "follower": RoleWeights(adapter=adapter),
            "training": _facts(settings, teachers),
            "evaluation": {},
        }
    )
    bundle = write_bundle(staging, manifest)
    staging.rename(target)
    return bundle


def _facts(settings: DistillSettings, teachers: Teachers) -> dict[str, Any]:
    """Return facts for readers on other machines: bundles are named by name and revision and not by path."""
    facts = portable(settings)
    for key in ("output_dir", "leader", "follower", "start"):
        facts.pop(key, None)
    leader, follower, start = (one.manifest for one in (teachers.leader, teachers.follower, teachers.start))
    named = {
        key: {"name": manifest.name, "revision": manifest.revision, "share": manifest.training.get("share")}
        for key, manifest in (("leader", leader), ("follower", follower), ("start", start))
    }
    known = start.training
    return known | {"distillations": [*known.get("distillations", []), named | facts]}
