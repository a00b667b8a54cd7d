"""Merges the Follower's adapter into its base once, into the cache, so that it needs no adapter at run time.

Refinement is then about as fast as the base model. A Leader with the same adapter needs none either. A Leader with
another adapter or none gets one on top of the merged weights, which takes the Follower's back and adds its own: the
factors of both, one beside the other. The price is a copy of the base on disk, and a Leader's adapter whose rank is
the sum of both.
"""

import json
import logging
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from slhf import RoleWeights, revision_of
from slhf.weights import difference, logits_of, write_model
from slhf_server.bundles.cached import build_once
from slhf_server.bundles.opened import OpenBundle
from slhf_server.settings.problem import SettingsError

_logger = logging.getLogger(__name__)
_LEADER = "leader"
_FORMAT = "merged-2"  # of what is written; directories of another format are never read


def merged(bundle: OpenBundle, cache_dir: Path) -> OpenBundle:
    """The bundle with its Follower merged, on first use.

    It is returned unchanged if its Follower has no adapter, if the base is quantised, or if the roles differ and one
    adapter is not plain LoRA (their difference is no LoRA then). Raises SettingsError for an adapter that does not fit
    its base, and where the merged weights compute something else than base and adapter.
    """
    leader, follower = bundle.adapter("leader"), bundle.adapter("follower")
    if follower is None or _is_quantised(bundle.weights):
        return bundle
    name = f"{_FORMAT}-{revision_of(bundle.weights)}-{revision_of(follower)}"
    if leader != follower:
        if not all(_is_plain(path) for path in (leader, follower) if path is not None):
            return bundle
        name += "-base" if leader is None else f"-{revision_of(leader)}"
    weights = build_once(cache_dir / name, lambda target: _merge(bundle.weights, leader, follower, target))
    on_top = None if leader == follower else str(weights / _LEADER)
    roles = {"leader": RoleWeights(adapter=on_top), "follower": RoleWeights()}
    return replace(bundle, weights=weights, manifest=bundle.manifest.model_copy(update=roles))


def _is_quantised(base: Path) -> bool:
    return _json(base / "config.json").get("quantization_config") is not None


def _is_plain(adapter: Path) -> bool:
    config = _json(adapter / "adapter_config.json")
    return not any(config.get(key) for key in ("use_dora", "use_rslora", "rank_pattern", "modules_to_save"))


def _json(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_bytes())
    return found


def _merge(base: Path, leader: Path | None, follower: Path, target: Path) -> None:
    _logger.info("merging the Follower's adapter into a copy of the base, once, into %s", target.parent)
    with _or_refuse("the base model cannot be read"):
        plain = _read(base)
    with _or_refuse(f"the adapter {follower.name!r} does not fit its base model"):
        model = _adapted(plain, follower)
    expected = {"": logits_of(model)}
    if leader != follower:
        with _or_refuse(f"the adapter {(leader or follower).name!r} does not fit its base model"):
            expected[_LEADER] = _add_leader(model, leader)
    with _or_refuse(f"the adapter {follower.name!r} cannot be merged into {target.parent}"):
        if leader != follower:
            model.save_pretrained(target, selected_adapters=[_LEADER], save_embedding_layers=False)
        was_tied = _untie(model)
        whole = model.merge_and_unload(adapter_names=["follower"])
        write_model(whole, base, target, untied=was_tied and not _tie_again(whole))
    del plain, model, whole  # one copy of the weights at a time
    _compare(target, expected)


def _read(weights: Path) -> Any:
    from transformers import AutoModelForCausalLM  # imported here, because it is not needed once they are merged

    return AutoModelForCausalLM.from_pretrained(weights, dtype="auto").eval().requires_grad_(False)


def _adapted(plain: Any, adapter: Path, name: str = "follower") -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():  # else an adapter that lacks weights would do nothing there
        warnings.filterwarnings("error", message=".*[Mm]issing adapter keys")
        return PeftModel.from_pretrained(plain, str(adapter), name).eval()


def _add_leader(model: Any, leader: Path | None) -> Any:
    """Add the Leader's adapter on top of the Follower's; returns the logits that the Leader has without it."""
    signs = {"follower": -1.0}
    if leader is None:
        with model.disable_adapter():
            expected = logits_of(model)
    else:
        found = model.load_adapter(str(leader), "own")
        if missing := [key for key in found.missing_keys if ".own." in key]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        model.set_adapter("own")
        expected = logits_of(model)
        signs["own"] = 1.0
    model.add_weighted_adapter(list(signs), list(signs.values()), _LEADER, combination_type="cat")
    model.set_adapter("follower")
    return expected


def _untie(model: Any) -> bool:
    """Give the head its own weights where they are the embedding's and an adapter changes either; returns whether."""
    whole = model.get_base_model()
    layers = whole.get_input_embeddings(), whole.get_output_embeddings()
    embedding, head = (_bare(layer) for layer in layers)
    if (embedding, head) == layers or head is None or head.weight is not embedding.weight:
        return False
    head.weight = type(head.weight)(head.weight.detach().clone(), requires_grad=False)
    return True


def _bare(layer: Any) -> Any:
    """The layer that peft has wrapped."""
    return getattr(layer, "base_layer", getattr(layer, "original_module", layer))


def _tie_again(whole: Any) -> bool:
    """Tie head and embedding again if they are still the same; returns whether they are."""
    embedding, head = whole.get_input_embeddings(), whole.get_output_embeddings()
    same = bool(embedding.weight.shape == head.weight.shape and (embedding.weight == head.weight).all())
    if same:
        head.weight = embedding.weight
    return same


def _compare(weights: Path, expected: Mapping[str, Any]) -> None:
    """Raises SettingsError unless the written weights give the logits of base and adapters."""
    for adapter, wanted in expected.items():
        with _or_refuse("what was merged cannot be read back"):
            model = _read(weights)
            model = _adapted(model, weights / adapter) if adapter else model
        if (gap := difference(model, wanted)) is not None:
            raise SettingsError(
                f"bundle: merged weights do not say what base and adapter say (their logits differ by {gap:.1%}), so "
                "they are not kept"
            )


@contextmanager
def _or_refuse(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as exc:  # transformers, peft, safetensors and the disk raise kinds that have no common base
        said = textwrap.shorten(str(exc), 400)
        raise SettingsError(f"bundle: {what}: {type(exc).__name__}: {said}") from exc
