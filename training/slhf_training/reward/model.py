"""Reward models: linear heads on a language model's body, which is frozen or has a LoRA adapter for each head.

my-reward/
    reward.json          this module's `Manifest`
    heads.safetensors    NAME.weight (F,) and NAME.bias () for each head
    adapters/NAME/       peft's format, for heads with an adapter
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from slhf.json_text import read_json
from slhf_training.config import Section
from slhf_training.errors import SettingsError
from slhf_training.reward.backbone import Backbone
from slhf_training.types import Chat, ChatKey, Probabilities, chat_key, sigmoid

MANIFEST = "reward.json"
HEADS = "heads.safetensors"
ADAPTERS = "adapters"
BESIDE = ".."
"""The backbone of a judge that a bundle carries, where it is the bundle's own base model."""
FORMAT: Final = 1


class Manifest(Section):
    format: Literal[1] = FORMAT
    backbone: str
    """A hub id, `builtin:NAME`, an absolute path, or `BESIDE`."""
    layers: tuple[int, ...]
    max_tokens: int
    batch_tokens: int
    heads: tuple[str, ...]
    adapters: bool
    """Each head has an adapter of its own name; False: all read the same frozen body."""


@dataclass(frozen=True, slots=True)
class Head:
    weight: Tensor  # (F,)
    bias: Tensor  # ()

    def __call__(self, features: Tensor) -> Tensor:
        """Score features (N, F) as (N,), each row on its own: a matrix product may round equal rows apart, and then a
        tie is none."""
        return (features * self.weight).sum(-1) + self.bias


class RewardModel:
    def __init__(
        self, manifest: Manifest, backbone: Backbone, heads: Mapping[str, Head], remembered: int = 1 << 13
    ) -> None:
        """`remembered`: of how many answers the features are kept in memory, at 4 bytes a feature."""
        self.manifest, self.backbone, self.heads = manifest, backbone, dict(heads)
        self._remembered = remembered
        self._read: dict[tuple[str, ChatKey, str], Tensor] = {}

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote. Raises SettingsError naming the file."""
        try:
            manifest = Manifest.model_validate(read_json((directory / MANIFEST).read_bytes()))
            tensors = load_file(directory / HEADS)
        except (OSError, ValueError) as exc:
            raise SettingsError(f"{directory}: no reward model: {exc}") from exc
        name = str(directory.absolute().parent) if manifest.backbone == BESIDE else manifest.backbone
        backbone = Backbone.load(name, manifest.layers, manifest.max_tokens, manifest.batch_tokens)
        heads = {name: Head(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in manifest.heads}
        if any(head.weight.shape != (backbone.size,) for head in heads.values()):
            raise SettingsError(
                f"{directory / HEADS}: not made for {manifest.backbone}: it has {backbone.size} features"
            )
        if manifest.adapters:
            backbone.model = _with_adapters(backbone.model, directory / ADAPTERS, manifest.heads)
        return cls(manifest, backbone, heads)

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {f"{name}.{part}": getattr(head, part) for name, head in self.heads.items() for part in _PARTS}
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, directory / HEADS)
        if self.manifest.adapters:
            self.backbone.model.save_pretrained(
                directory / ADAPTERS, selected_adapters=list(self.heads), save_embedding_layers=False
            )
        (directory / MANIFEST).write_text(self.manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def require(self, heads: Sequence[str], place: str) -> None:
        """Raises SettingsError, which starts with `place`, for a head that is not there."""
        if missing := [head for head in heads if head not in self.heads]:
            raise SettingsError(f"{place} has no head {', '.join(missing)}; it has {', '.join(self.heads)}")

    def scores(self, chats: Sequence[Chat], answers: Sequence[str], heads: Sequence[str] = ()) -> Probabilities:
        """(A, N): a row of scores for each head, or for all where none is named; NaN where a text is too long."""
        rows = []
        features = None
        for name in heads or self.heads:
            if self.manifest.adapters:
                self.backbone.model.set_adapter(name)
            if features is None or self.manifest.adapters:
                features = self._features(name if self.manifest.adapters else "", chats, answers)
            rows.append(self.heads[name](features))
        return torch.stack(rows).double().numpy()

    def _features(self, adapter: str, chats: Sequence[Chat], answers: Sequence[str]) -> Tensor:
        """(N, F). Features read lately are remembered, because a tournament asks about an answer in pair after pair."""
        keys = [(adapter, chat_key(chat), answer) for chat, answer in zip(chats, answers, strict=True)]
        new = {key: place for place, key in enumerate(keys) if key not in self._read}
        rows = self.backbone.features([chats[place] for place in new.values()], [answers[p] for p in new.values()])
        self._read.update(zip(new, rows, strict=True))
        found = torch.stack([self._read[key] for key in keys]) if keys else rows
        for key in list(self._read)[: max(0, len(self._read) - self._remembered)]:
            del self._read[key]
        return found

    def both(
        self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str], heads: Sequence[str] = ()
    ) -> tuple[Probabilities, Probabilities]:
        """Score first and second answers, (A, B) each, in one batch, so that equal answers get equal scores."""
        scores = self.scores([*chats, *chats], [*first, *second], heads)
        return scores[:, : len(chats)], scores[:, len(chats) :]


_PARTS = ("weight", "bias")


def _with_adapters(model: Any, directory: Path, names: Sequence[str]) -> Any:
    from peft import PeftModel  # late: only adapters need it

    try:
        model = PeftModel.from_pretrained(model, directory / names[0], adapter_name=names[0])
        for name in names[1:]:
            model.load_adapter(directory / name, adapter_name=name)
    except (OSError, ValueError) as exc:
        raise SettingsError(f"{directory}: {exc}") from exc
    return model.eval()


Votes = Literal["hard", "soft"]


def vote(
    a: Probabilities,  # (A, B): scores of the first answers by attribute
    b: Probabilities,  # (A, B)
    votes: Votes = "hard",
) -> Probabilities:
    """(B,): the share of attributes that the first answer wins, with half for a tie; NaN where a score is NaN."""
    won: Probabilities = sigmoid(a - b) if votes == "soft" else (1 + np.sign(a - b)) / 2
    share: Probabilities = won.mean(axis=0)
    return share
