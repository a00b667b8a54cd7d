"""Roles that share one adapter need none at run time: base and adapter are merged once, into the cache.

On a CPU an adapter costs two thirds of vLLM's throughput, on GPUs up to half. The price is a copy of the base on disk.
"""

import logging
from dataclasses import replace
from pathlib import Path

from slhf import RoleWeights, revision_of
from slhf_server.bundles import OpenBundle
from slhf_server.cached import made_once
from slhf_server.errors import SettingsError

_logger = logging.getLogger(__name__)


def merged(bundle: OpenBundle, cache_dir: Path) -> OpenBundle:
    """The bundle without adapters, merged on first use; as it is where its roles differ or have none.

    Raises SettingsError for an adapter that does not fit its base.
    """
    adapter = bundle.adapter("leader")
    if adapter is None or adapter != bundle.adapter("follower"):
        return bundle
    directory = cache_dir / f"merged-{revision_of(bundle.weights)}-{revision_of(adapter)}"
    weights = made_once(directory, lambda target: _merge(bundle.weights, adapter, target))
    plain = {"leader": RoleWeights(), "follower": RoleWeights()}
    return replace(bundle, weights=weights, manifest=bundle.manifest.model_copy(update=plain))


def _merge(base: Path, adapter: Path, target: Path) -> None:
    from peft import PeftModel  # imported here: the server needs none of this once the weights are merged
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _logger.info("merging the adapter that both roles share into a copy of the base, once, into %s", target.parent)
    try:
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().save_pretrained(target)
        AutoTokenizer.from_pretrained(base).save_pretrained(target)
    except (OSError, ValueError, RuntimeError, KeyError) as exc:  # KeyError: a kind of adapter that peft does not know
        raise SettingsError(f"bundle: the adapter {adapter.name!r} does not fit its base model: {exc}") from exc
