"""From the configuration to a bundle: lessons are read, one adapter learns them."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from slhf import Bundle, RoleWeights, write_bundle
from slhf_training.config import portable
from slhf_training.errors import SettingsError
from slhf_training.fit.export import cast, name_base
from slhf_training.fit.run import last_checkpoint
from slhf_training.imitation.learning import Imitator
from slhf_training.imitation.lessons import lessons_of, read_lessons
from slhf_training.imitation.settings import ImitateSettings
from slhf_training.models.load import end_ids_of, load_causal
from slhf_training.models.prompts import Prompts
from slhf_training.models.roles import DTYPES, with_adapters

BUNDLE, ADAPTER = "bundle", "policy"
_LOG = logging.getLogger(__name__)


def imitate(settings: ImitateSettings, name: str) -> Bundle:
    """The bundle, which lies in `bundle` of the output directory. A run that was killed goes on.

    Raises SettingsError and DataError.
    """
    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise SettingsError(f"imitate runs in one process, and this is one of {processes}")
    if (target := settings.output_dir / BUNDLE).exists():
        raise SettingsError(f"output_dir: {target} exists already")
    tokenizer, base = load_causal(settings.model, DTYPES[settings.dtype])
    prompts = Prompts(tokenizer, settings.follower_turn, end_ids_of(base))
    rows = list(read_lessons(settings.lessons))
    lessons = lessons_of(rows, prompts, tokenizer.eos_token_id, settings.max_tokens)
    _LOG.info("%d lessons of %d rows, %d tokens", len(lessons), len(rows), sum(len(one.ids) for one in lessons))
    trainer = Imitator(_student(base, settings), _first_layer(settings), lessons, settings)
    last = last_checkpoint(settings.output_dir)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    return _bundle(settings, name, trainer.model, target)


def _student(base: Any, settings: ImitateSettings) -> Any:
    torch.manual_seed(settings.seed)  # the adapter's first weights
    base.requires_grad_(False)
    if settings.start is not None:
        return PeftModel.from_pretrained(base, settings.start, is_trainable=True)
    return with_adapters(base, ["default"], settings.lora)


def _first_layer(settings: ImitateSettings) -> int:
    return 0 if settings.lora.layers is None else settings.lora.layers[0]


def _bundle(settings: ImitateSettings, name: str, model: Any, target: Path) -> Bundle:
    """It appears when it is whole."""
    staging = settings.output_dir / f".{BUNDLE}"
    shutil.rmtree(staging, ignore_errors=True)
    model.save_pretrained(staging / ADAPTER, save_embedding_layers=False)
    cast(staging / ADAPTER / "adapter_model.safetensors", torch.bfloat16)
    name_base(staging / ADAPTER / "adapter_config.json", settings.model)
    is_here = Path(settings.model).is_dir()
    if is_here:
        shutil.copytree(settings.model, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns("slhf.json"))
    role = RoleWeights(adapter=ADAPTER)
    manifest = Bundle(
        name=name,
        base_model="." if is_here else settings.model,
        leader=role,
        follower=role,
        follower_turn=settings.follower_turn,
        sampling=settings.sampling,
        trained="imitation",
        training={key: value for key, value in portable(settings).items() if key != "output_dir"},
    )
    bundle = write_bundle(staging, manifest)
    staging.rename(target)
    return bundle
