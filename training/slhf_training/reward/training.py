"""Trains reward models: linear probes on a frozen backbone, or one LoRA adapter with its head at a time."""

import logging
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss, softplus

from slhf_training.data import Example, Pair
from slhf_training.data.load import split
from slhf_training.errors import DataError, DivergedError
from slhf_training.models.scoring import Reading
from slhf_training.reward import HeadSettings, LoraHeads
from slhf_training.reward.backbone import Backbone, batches
from slhf_training.reward.model import Head
from slhf_training.types import Chat, ChatKey, chat_key


def bradley_terry(
    chosen: Tensor,  # (B,)
    rejected: Tensor,  # (B,)
) -> Tensor:
    """-log sigmoid(r(chosen) - r(rejected)), the mean over pairs; in nats."""
    return softplus(rejected - chosen).mean()


def regression(
    scores: Tensor,  # (B,)
    targets: Tensor,  # (B,)
) -> Tensor:
    """Mean squared error, on the targets' scale."""
    return mse_loss(scores, targets)


@dataclass(frozen=True, slots=True)
class RewardExample:
    """A chat with (chosen, rejected), or with one answer and its target; a head learns from one of these two kinds."""

    chat: Chat
    answers: tuple[str, ...]
    target: float = 0.0


def reward_examples(examples: Sequence[Example], settings: HeadSettings) -> list[RewardExample]:
    """Return what a head with these settings learns from the examples. Raises DataError where that is nothing."""
    if settings.attribute is None:
        pairs = [example for example in examples if example.pair]
    else:
        pairs = ranked(examples, settings.attribute)
    if settings.loss == "regression":
        found = scored(examples, settings.attribute or "")
    else:
        found = [RewardExample(one.chat, (one.pair.chosen, one.pair.rejected)) for one in pairs if one.pair]
    if not found:
        raise DataError(
            f"none of {len(examples)} examples has what {settings.loss} of {settings.attribute or 'pairs'} needs"
        )
    return found


def scored(examples: Sequence[Example], attribute: str) -> list[RewardExample]:
    """Return the answers that have a score for the attribute."""
    return [
        RewardExample(example.chat, (example.scores.answer,), example.scores.values[attribute])
        for example in examples
        if example.scores and attribute in example.scores.values
    ]


def ranked(examples: Sequence[Example], attribute: str) -> list[Example]:
    """Return all pairs of answers to one chat whose scores differ, with the higher one as chosen."""
    by_chat: dict[ChatKey, list[RewardExample]] = defaultdict(list)
    for lesson in scored(examples, attribute):
        by_chat[chat_key(lesson.chat)].append(lesson)
    found = []
    for answers in by_chat.values():
        for one, other in combinations(answers, 2):
            if one.target != other.target:
                better, worse = sorted((one, other), key=lambda lesson: -lesson.target)
                found.append(Example(one.chat, Pair(better.answers[0], worse.answers[0]), source=attribute))
    return found


def both_sides(
    examples: Sequence[Example], settings: HeadSettings, share: float, seed: int, name: str
) -> tuple[list[RewardExample], list[RewardExample]]:
    """Return (train, validation), split by prompt. Raises DataError where one of them is empty."""
    train, validation = split(examples, share, seed)
    if not train or not validation:
        raise DataError(f"heads.{name}: {len(train)} examples to train and {len(validation)} to validate are too few")
    return reward_examples(train, settings), reward_examples(validation, settings)


_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncodedExamples:
    """Examples as numbers: features (N, K, F) of their K answers, targets (N,), and the answers' lengths (N, K)."""

    features: Tensor
    targets: Tensor
    lengths: Tensor
    """log(1 + words)."""

    @classmethod
    def of(cls, examples: Sequence[RewardExample], features: Mapping[tuple[ChatKey, str], Tensor]) -> "EncodedExamples":
        rows = [torch.stack([features[key(lesson, answer)] for answer in lesson.answers]) for lesson in examples]
        targets = torch.tensor([lesson.target for lesson in examples], dtype=torch.float64)
        words = torch.tensor([[len(answer.split()) for answer in lesson.answers] for lesson in examples])
        stacked = torch.stack(rows).double()
        read = ~stacked.isnan().any(-1).any(-1)
        return cls(stacked[read], targets[read], words[read].double().log1p())


def key(lesson: RewardExample, answer: str) -> tuple[ChatKey, str]:
    return chat_key(lesson.chat), answer


def features_of(examples: Sequence[RewardExample], backbone: Backbone) -> dict[tuple[ChatKey, str], Tensor]:
    """Return the features (F,) of each answer. An answer is read once, however many heads learn from it."""
    wanted = {key(lesson, answer): (lesson.chat, answer) for lesson in examples for answer in lesson.answers}
    rows = backbone.features([chat for chat, _ in wanted.values()], [answer for _, answer in wanted.values()])
    return dict(zip(wanted, rows, strict=True))


def loss_of(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the Bradley-Terry loss of (N, 2) scores of pairs, or the squared error of (N, 1) scores of answers."""
    return bradley_terry(scores[:, 0], scores[:, 1]) if scores.shape[1] == 2 else regression(scores[:, 0], targets)


def probe(
    train: EncodedExamples, validation: EncodedExamples, l2: Sequence[float], *, hold_length: bool = False
) -> tuple[Head, dict[str, Any]]:
    """Return the head with the least validation loss, and facts about it. No chance enters: each problem is convex."""
    if not len(train.targets) or not len(validation.targets):
        raise DataError("every text of the training or of the validation data is longer than max_tokens")
    found = [solve(train, strength, hold_length=hold_length) for strength in l2]
    longer = validation.lengths - train.lengths.mean()
    losses = [float(loss_of(head(validation.features) + slope * longer, validation.targets)) for head, slope in found]
    best = min(range(len(l2)), key=lambda place: losses[place] if math.isfinite(losses[place]) else math.inf)
    exact, slope = found[best]
    head = Head(exact.weight.float(), exact.bias.float())
    require_finite(head, losses[best])
    return head, {
        "l2": l2[best],
        "validation_loss": losses[best],
        "validation_losses": {
            str(a): loss if math.isfinite(loss) else None for a, loss in zip(l2, losses, strict=True)
        },
        "train": len(train.targets),
        "validation": len(validation.targets),
        "length_slope": float(slope),
    }


def require_finite(head: Head, *losses: float) -> None:
    """Raise DivergedError where a loss or a weight is not finite, so that no model is saved that would answer NaN."""
    if not (all(map(math.isfinite, losses)) and head.weight.isfinite().all() and head.bias.isfinite()):
        raise DivergedError("the loss or the weights are no finite numbers: are the scores or the features too large?")


def solve(known: EncodedExamples, l2: float, *, hold_length: bool = False) -> tuple[Head, Tensor]:
    """Return the head with the least loss + l2 / 2 |w|^2 over standardised features, for raw features, in float64.

    The second value is the slope of the lengths, 0 unless they are held. As in length-controlled win rates it is a term
    of its own, without a penalty, so that it takes all that length explains; the head then scores an answer as if it
    had the mean length.
    """
    flat = known.features.flatten(0, 1)
    mean, scale = flat.mean(0), flat.std(0, correction=0).clamp_min(1e-6)
    features = (known.features - mean) / scale
    weight = torch.zeros(features.shape[-1], dtype=torch.float64, requires_grad=True)
    bias = known.targets.mean().clone().requires_grad_()
    slope = torch.zeros((), dtype=torch.float64, requires_grad=hold_length)
    lengths = known.lengths - known.lengths.mean()
    found = [parameter for parameter in (weight, bias, slope) if parameter.requires_grad]
    optimiser = torch.optim.LBFGS(
        found, max_iter=500, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        objective = loss_of(features @ weight + bias + slope * lengths, known.targets) + l2 / 2 * weight @ weight
        objective.backward()  # type: ignore[no-untyped-call]
        return objective

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    raw = (weight / scale).detach()
    return Head(raw, bias.detach() - mean @ raw), slope.detach()


def add_adapter(backbone: Backbone, name: str, settings: LoraHeads) -> None:
    """Put a fresh adapter on the body and switch it on. It has no dropout, so that judging reads as training did."""
    from peft import LoraConfig, PeftModel, get_peft_model  # late: only adapters need it

    modules = settings.target_modules if isinstance(settings.target_modules, str) else list(settings.target_modules)
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, target_modules=modules)
    if isinstance(backbone.model, PeftModel):
        backbone.model.add_adapter(name, config)
        backbone.model.set_adapter(name)
    else:
        backbone.model = get_peft_model(backbone.model, config, adapter_name=name)
    backbone.model.eval()


def tune(
    backbone: Backbone, train: Sequence[RewardExample], settings: LoraHeads, seed: int
) -> tuple[Head, dict[str, Any]]:
    """Train the backbone's active adapter and a new head, with one optimiser step for each `batch` examples."""
    torch.manual_seed(seed)
    encoded, dropped = _encoded(train, backbone)
    if not encoded:
        raise DataError("every text of the training data is longer than max_tokens")
    weight = (torch.randn(backbone.size) / backbone.size).to(backbone.model.device).requires_grad_()
    bias = torch.tensor(sum(target for _, target in encoded) / len(encoded), device=weight.device).requires_grad_()
    head = Head(weight, bias)
    trained = [p for p in backbone.model.parameters() if p.requires_grad] + [weight, bias]
    optimiser = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0)
    losses: list[float] = []
    for step in _steps(encoded, settings, seed):
        losses.append(_accumulate(backbone, head, step))
        require_finite(head, losses[-1])
        torch.nn.utils.clip_grad_norm_(trained, settings.clip)
        optimiser.step()
        optimiser.zero_grad()
        if len(losses) % 10 == 0:
            _LOG.info("step %d: loss %.4f (mean of 10)", len(losses), sum(losses[-10:]) / 10)
    done = Head(weight.detach().cpu(), bias.detach().cpu())
    require_finite(done)
    return done, {"train": len(encoded), "dropped": dropped, "steps": len(losses), "losses": losses}


Encoded = tuple[Reading, float]  # the tokens, and the target


def _encoded(examples: Sequence[RewardExample], backbone: Backbone) -> tuple[list[Encoded], int]:
    """Return the examples that fit, and how many do not."""
    readings = [(backbone.encode(lesson.chat, lesson.answers), lesson.target) for lesson in examples]
    found = [(reading, target) for reading, target in readings if reading]
    return found, len(examples) - len(found)


def _steps(encoded: Sequence[Encoded], settings: LoraHeads, seed: int) -> Iterator[list[Encoded]]:
    order = random.Random(seed)
    for _ in range(settings.epochs):
        shuffled = order.sample(encoded, len(encoded))
        for start in range(0, len(shuffled), settings.batch):
            yield shuffled[start : start + settings.batch]


def _accumulate(backbone: Backbone, head: Head, step: Sequence[Encoded]) -> float:
    """Add up the gradients of the step's mean loss, which is returned, in passes over examples of like length."""
    targets = {id(reading): target for reading, target in step}
    by_length = sorted((reading for reading, _ in step), key=lambda reading: reading.length)
    total = 0.0
    for part in batches(by_length, backbone.batch_tokens):
        wanted = torch.tensor([targets[id(reading)] for reading in part], device=backbone.model.device)
        scores = head(backbone.pooled(part)).view(len(part), -1)
        loss = loss_of(scores, wanted) * (len(part) / len(step))
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total
