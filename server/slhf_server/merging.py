"""The Follower needs no adapter at run time: base and adapter are merged once, into the cache.

Refinement is then about as fast as the base model. Where the Leader has the same adapter it needs none either. Where it
has another or none, it gets one on top of the merged weights that takes the Follower's back and adds its own: the
factors of both, one beside the other. The price is a copy of the base on disk, and a Leader's adapter whose rank is
the sum.
"""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from slhf import RoleWeights, revision_of
from slhf_server.bundles import OpenBundle
from slhf_server.cached import made_once
from slhf_server.errors import SettingsError

_logger = logging.getLogger(__name__)
_LEADER = "leader"


def merged(bundle: OpenBundle, cache_dir: Path) -> OpenBundle:
    """The bundle with its Follower merged, on first use.

    As it is where its Follower has no adapter, where the base is quantised, and where roles differ and one of their
    adapters is no plain LoRA, whose difference is none. Raises SettingsError for an adapter that does not fit its base.
    """
    leader, follower = bundle.adapter("leader"), bundle.adapter("follower")
    if follower is None or _is_quantised(bundle.weights):
        return bundle
    name = f"merged-{revision_of(bundle.weights)}-{revision_of(follower)}"
    if leader != follower:
        if not all(_is_plain(path) for path in (leader, follower) if path is not None):
            return bundle
        name += "-base" if leader is None else f"-{revision_of(leader)}"
    weights = made_once(cache_dir / name, lambda target: _merge(bundle.weights, leader, follower, target))
    on_top = None if leader == follower else str(weights / _LEADER)
    roles = {"leader": RoleWeights(adapter=on_top), "follower": RoleWeights()}
    return replace(bundle, weights=weights, manifest=bundle.manifest.model_copy(update=roles))


def _is_quantised(base: Path) -> bool:
    return "quantization_config" in _json(base / "config.json")


def _is_plain(adapter: Path) -> bool:
    config = _json(adapter / "adapter_config.json")
    return not any(config.get(key) for key in ("use_dora", "use_rslora", "modules_to_save"))


def _json(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_bytes())
    return found


def _merge(base: Path, leader: Path | None, follower: Path, target: Path) -> None:
    from peft import PeftModel  # imported here: the server needs none of this once the weights are merged
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _logger.info("merging the Follower's adapter into a copy of the base, once, into %s", target.parent)
    adapter = follower
    try:
        plain = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        model = PeftModel.from_pretrained(plain, str(follower), "follower")
        if leader != follower:
            adapter = leader or follower
            _add_leader(model, leader)
            model.save_pretrained(target, selected_adapters=[_LEADER], save_embedding_layers=False)
        model.merge_and_unload(adapter_names=["follower"]).save_pretrained(target)
        AutoTokenizer.from_pretrained(base).save_pretrained(target)
    except (OSError, ValueError, RuntimeError, KeyError) as exc:  # KeyError: a kind of adapter that peft does not know
        raise SettingsError(f"bundle: the adapter {adapter.name!r} does not fit its base model: {exc}") from exc


def _add_leader(model: Any, leader: Path | None) -> None:
    signs = {"follower": -1.0}
    if leader is not None:
        model.load_adapter(str(leader), "own")
        signs["own"] = 1.0
    model.add_weighted_adapter(list(signs), list(signs.values()), _LEADER, combination_type="cat")
