"""From settings to a trainer: model, tokenizer, roles, prompts and a rollout that fit each other."""

from collections.abc import Sequence
from typing import Any

import torch

from slhf_training.data.examples import Example
from slhf_training.fit.drafts import Pile, drafts_of
from slhf_training.fit.settings import FitSettings
from slhf_training.fit.supervised import checkpoint_gradients
from slhf_training.fit.trainer import PLAYERS, GameTrainer
from slhf_training.models.load import end_ids_of, load_causal
from slhf_training.models.prompts import Prompts
from slhf_training.models.roles import DTYPES, Roles
from slhf_training.models.sharding import this_process
from slhf_training.preference import Preference
from slhf_training.rollout import Rollout
from slhf_training.rollout.hf import HFRollout
from slhf_training.rollout.server import ServerRollout
from slhf_training.rollout.vllm import VLLMRollout
from slhf_training.types import Chat


def build_trainer(
    settings: FitSettings, chats: Sequence[Chat], preference: Preference, drafted: Sequence[Example] = ()
) -> GameTrainer:
    """`drafted`: where the settings' `drafts` are. Raises SettingsError for a model that cannot be had, DataError for
    chats or drafts that cannot be used."""
    tokenizer, base = load_model(settings)
    prompts = Prompts(tokenizer, settings.follower_turn, end_ids_of(base))
    roles = build_roles(settings, base)
    kept = short_enough(chats, prompts, settings.rollout.max_prompt_tokens)
    pile = None
    if settings.drafts is not None:
        most = settings.rollout.max_prompt_tokens + settings.rollout.max_new_tokens  # as with an answer of the Leader
        found = drafts_of(drafted, prompts, len(kept), most, settings.drafts.answers)
        ours = this_process()
        pile = Pile(found, settings.drafts.per_step, settings.seed, ours.process_index, ours.num_processes)
    return GameTrainer(roles, prompts, kept, preference, _rollout(settings, roles, prompts), settings, pile=pile)


def load_model(settings: FitSettings) -> tuple[Any, Any]:
    """The tokenizer and the base model."""
    return load_causal(settings.model, DTYPES[settings.dtype])


def build_roles(settings: FitSettings, base: Any) -> Roles:
    torch.manual_seed(settings.seed)  # the adapters' first weights
    players = PLAYERS[settings.algorithm]
    merges = settings.rollout.engine == "hf"
    roles = Roles(base, settings.weights, settings.lora, players, DTYPES[settings.rollout.dtype], merges)
    checkpoint_gradients(roles.model, settings)
    return roles


def short_enough(chats: Sequence[Chat], prompts: Prompts, most: int) -> list[Chat]:
    """The chats whose Leader's prompt fits."""
    return [chat for chat in chats if len(prompts.leader(chat)) <= most]


def _rollout(settings: FitSettings, roles: Roles, prompts: Prompts) -> Rollout:
    match settings.rollout.engine:
        case "hf":
            return HFRollout(roles, settings.rollout, prompts.end_ids, settings.game.mixture)
        case "vllm":
            return VLLMRollout(roles, settings.model, settings.rollout, settings.seed, prompts.end_ids)
        case "vllm-server":
            return ServerRollout(roles, settings.rollout, prompts.end_ids)
