"""Rounds merged weights to int8 (W8A8) for CPUs, once, into the cache.

A step of decoding reads every weight, so half the bytes take about half the time, and AVX512-VNNI or AMX multiply int8
faster than bfloat16. Each output channel of a Linear layer inside the decoder blocks gets a scale, its largest weight
over 127 (over 64 for CPUs without VNNI); activations are rounded by vLLM as they come, each token by a scale of its
own. Embedding, head, norms and biases stay as they are. The form is that of compressed-tensors, which vLLM reads.

One copy serves both roles. Tensors are read and written one by one, so making it takes the memory of the largest one.
"""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slhf import revision_of
from slhf.weights import copy_all_but_weights
from slhf_server.bundles.cached import build_once
from slhf_server.bundles.opened import OpenBundle
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import Settings

if TYPE_CHECKING:
    from torch import Tensor

AUTO_FROM = 450_000_000
"""Parameters from which `auto` rounds: Qwen2.5's 0.5B has 494 million."""
WHOLE_RANGE = 127
"""The steps of a weight in int8; CPUs without VNNI multiply fewer exactly (engine/cpu.py)."""
_FORMAT = "int8-1"  # directories of another format are never read
_INDEX = "model.safetensors.index.json"
_BLOCK = re.compile(r"model\.layers\.\d+\.(.+)")
_LINEAR = {
    f"{part}.weight"
    for part in (
        *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "qkv", "o")),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "gate_up", "down")),
    )
}
_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_GROUP = {
    "targets": ["Linear"],
    "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
    "input_activations": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True},
}
_QUANTIZATION = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {"group_0": _GROUP},
}
_logger = logging.getLogger(__name__)


def quantized(bundle: OpenBundle, settings: Settings, obstacle: str | None, largest: int = WHOLE_RANGE) -> OpenBundle:
    """The bundle with its weights in int8, made on first use, where `cpu_quantization` asks for it and it is possible.

    `obstacle` says why this device does not compute in int8; None: it does. `largest` is the most steps that a weight
    may have here. Raises SettingsError where the setting says `int8` and something stands in the way, and for weights
    that cannot be read.
    """
    if settings.cpu_quantization == "none":
        return bundle
    reason = obstacle or objection(bundle, settings)
    if reason is not None:
        if settings.cpu_quantization == "int8":
            raise SettingsError(f"cpu_quantization: int8 is not possible: {reason}")
        _logger.info("weights stay as they are, not in int8: %s", reason)
        return bundle
    name = _FORMAT if largest == WHOLE_RANGE else f"{_FORMAT}-of-{largest}"
    made = build_once(
        settings.cache_dir / f"{name}-{_made_from(bundle, settings)}", lambda to: _write(bundle, to, largest)
    )
    _logger.info("serving int8 (W8A8), made from %s; cpu_quantization is %s", bundle.weights, settings.cpu_quantization)
    return replace(bundle, weights=made)


def _made_from(bundle: OpenBundle, settings: Settings) -> str:
    """What the weights were made from. Merged weights keep their name in the cache, which tells their adapters apart: a
    revision looks at the ends of large files alone, and those of two adapters on upper layers may be the same."""
    weights = bundle.weights
    return weights.name if weights.parent == settings.cache_dir else revision_of(weights)


def objection(bundle: OpenBundle, settings: Settings) -> str | None:
    """Why the bundle's weights are not to be rounded, or None. It reads headers alone, and no weights."""
    if "quantization" in settings.engine:
        return f"engine.quantization is {settings.engine['quantization']!r}"
    if any(bundle.adapter(role) is not None for role in ("leader", "follower")):
        return "its roles keep LoRA adapters, which vLLM's CPU backend cannot put on int8 layers"
    if _config(bundle.weights).get("quantization_config") or (bundle.weights / "hf_quant_config.json").exists():
        return "its base is quantised already"
    with _or_refuse(f"bundle: {bundle.weights / _INDEX}"):
        files = _files(bundle.weights)
    if not files:
        return f"it has neither model.safetensors nor {_INDEX}"
    shapes = {name: found for file in files for name, found in _shapes(file).items()}
    if strange := {dtype for dtype, _ in shapes.values()} - _BYTES.keys():
        return f"its numbers are {', '.join(sorted(strange))}"
    if misfits := [name for name, found in shapes.items() if not _fits(name, found[1])]:
        return f"{misfits[0]} is no layer that is known to fit ({len(misfits)} are not)"
    if not any(map(_is_linear, shapes)):
        return "it has no Linear layers model.layers.N"
    count = sum(prod(shape) for _, shape in shapes.values())
    if settings.cpu_quantization == "auto" and count < AUTO_FROM:
        return f"it has {count / 1e6:.0f} million parameters, and auto begins at {AUTO_FROM / 1e6:.0f}"
    return None


def _config(weights: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((weights / "config.json").read_bytes())
    return found


def _files(weights: Path) -> list[Path]:
    """The files of safetensors that hold the model, beside its configuration."""
    if (weights / _INDEX).exists():
        named = set(json.loads((weights / _INDEX).read_bytes())["weight_map"].values())
        return [weights / Path(name).name for name in sorted(named)]
    return [file for file in [weights / "model.safetensors"] if file.exists()]


def _shapes(file: Path) -> dict[str, tuple[str, list[int]]]:
    """The dtype, as safetensors calls it, and the shape of each tensor."""
    from safetensors import safe_open  # imported here, as torch is, because a server on a GPU needs none of it

    with _or_refuse(f"bundle: {file}"), safe_open(file, "pt") as source:
        slices = {name: source.get_slice(name) for name in source.keys()}
        return {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}


def _is_linear(name: str) -> bool:
    inside = _BLOCK.fullmatch(name)
    return inside is not None and inside[1] in _LINEAR


def _fits(name: str, shape: list[int]) -> bool:
    """Whether a tensor is a known Linear layer of a block, or no matrix of a block; experts and states do not fit."""
    return len(shape) == 2 if _is_linear(name) else len(shape) < 2 or not _BLOCK.fullmatch(name)


def _write(bundle: OpenBundle, target: Path, largest: int) -> None:
    _logger.info("rounding the weights to int8, once, into %s", target.parent)
    held = {file.name: _write_file(file, target / file.name, largest) for file in _files(bundle.weights)}
    copy_all_but_weights(bundle.weights, target)
    _dump(_config(bundle.weights) | {"quantization_config": _QUANTIZATION}, target / "config.json")
    if (bundle.weights / _INDEX).exists():
        places = {name: file for file, sizes in held.items() for name in sizes}
        total = sum(size for sizes in held.values() for size in sizes.values())
        _dump({"metadata": {"total_size": total}, "weight_map": places}, target / _INDEX)


def _dump(content: dict[str, Any], file: Path) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_file(file: Path, target: Path, largest: int) -> dict[str, int]:
    """Write one file of safetensors with its Linear layers rounded; returns the bytes of each tensor.

    The format's own library writes a file from tensors that are all in memory, so the few bytes around them are written
    here: the header's length (8 bytes, little endian), the header as JSON, and the tensors.
    """
    from safetensors import safe_open

    places = _places(_shapes(file))
    with safe_open(file, "pt") as source, target.open("wb") as sink:
        head = json.dumps({"__metadata__": source.metadata() or {"format": "pt"}} | places).encode()
        head += b" " * (-len(head) % 8)
        sink.write(len(head).to_bytes(8, "little") + head)
        for name in source.keys():
            for part, tensor in _parts(name, source.get_tensor(name), largest):
                sink.seek(8 + len(head) + places[part]["data_offsets"][0])
                sink.write(_raw(tensor))
    return {name: place["data_offsets"][1] - place["data_offsets"][0] for name, place in places.items()}


def _places(shapes: dict[str, tuple[str, list[int]]]) -> dict[str, Any]:
    """The header of what is written. Wide numbers come first, so that each begins at a multiple of its width."""
    found: dict[str, tuple[str, list[int]]] = {}
    for name, (dtype, shape) in shapes.items():
        found[name] = ("I8" if _is_linear(name) else dtype, shape)
        if _is_linear(name):
            found[f"{name}_scale"] = ("F32", [shape[0], 1])
    places: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in sorted(found.items(), key=lambda item: (-_BYTES.get(item[1][0], 1), item[0])):
        start, end = end, end + prod(shape) * _BYTES.get(dtype, 1)
        places[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    return places


def _parts(name: str, tensor: "Tensor", largest: int) -> Iterator[tuple[str, "Tensor"]]:
    if not _is_linear(name):
        yield name, tensor
        return
    whole, scale = rounded(tensor, largest)
    if not scale.isfinite().all():
        raise SettingsError(f"bundle: {name}: weights that are not finite cannot be rounded to int8")
    yield name, whole
    yield f"{name}_scale", scale


def rounded(weight: "Tensor", largest: int = WHOLE_RANGE) -> tuple["Tensor", "Tensor"]:
    """A layer's weights (N, K) in steps up to `largest`, as int8, and each output channel's scale, (N, 1) float32."""
    import torch

    wide = weight.float()
    scale = wide.abs().amax(dim=1, keepdim=True) / largest
    steps = wide.div_(scale.clamp(min=torch.finfo(torch.float32).tiny)).round_()
    return steps.to(torch.int8), scale


def _raw(tensor: "Tensor") -> Any:
    """The tensor's bytes, as a buffer over its own memory."""
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


@contextmanager
def _or_refuse(what: str) -> Iterator[None]:
    """Turn errors of reading into a SettingsError that begins with `what`."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as exc:
        raise SettingsError(f"{what} cannot be read: {type(exc).__name__}: {exc}") from exc
