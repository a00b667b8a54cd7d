"""Opens the vLLM engine without holding up the event loop: `/health` answers while 30 seconds of imports run."""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from slhf_server.bundles.merging import merged
from slhf_server.bundles.quantization import quantized
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.loading.advice import advice
from slhf_server.loading.opening import open_bundle
from slhf_server.loading.run_examples import sandbox_for
from slhf_server.settings.server import Settings

if TYPE_CHECKING:
    from slhf_server.engine.vllm import VLLMEngine

_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # vLLM would send usage statistics
    "VLLM_LOGGING_LEVEL": "WARNING",
}
_logger = logging.getLogger(__name__)


async def open_vllm(settings: Settings) -> "VLLMEngine":
    """The engine of the bundle that the settings name, loaded and warm.

    Raises SettingsError for a bundle or an engine argument that cannot work.
    """
    load = await asyncio.to_thread(_prepared, settings)
    started = time.perf_counter()
    engine = await asyncio.to_thread(load)
    _logger.info("start: engine and weights %.1f s", time.perf_counter() - started)
    started = time.perf_counter()
    try:
        await engine.warm_up()
    except BaseException:
        engine.shutdown()
        raise
    _logger.info("start: warm-up %.1f s", time.perf_counter() - started)
    return engine


def _prepared(settings: Settings) -> Callable[[], "VLLMEngine"]:
    """What loads the engine, for a call in a thread of its own.

    What is imported here keeps the frames that it was imported from, and with them whatever they hold: an engine would
    live to the interpreter's end, where vLLM's finaliser fails.
    """
    times = [time.perf_counter()]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers reads it at its first use
    sandbox = sandbox_for(settings)
    bundle = open_bundle(settings)
    encoder = PromptEncoder.open(bundle.weights)  # a template that cannot be used is found before any weights are read
    bundle = merged(bundle, settings.cache_dir)
    times.append(time.perf_counter())
    if settings.log_format == "json" and not {"VLLM_LOGGING_LEVEL", "VLLM_CONFIGURE_LOGGING"} & os.environ.keys():
        os.environ.setdefault("VLLM_LOGGING_CONFIG_PATH", str(Path(__file__).with_name("vllm_logging.json")))
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())  # vLLM does so too, but late
    from slhf_server.engine.cpu import int8_obstacle, weight_range  # imports vLLM: seconds
    from slhf_server.engine.vllm import VLLMEngine, sees_nvidia_gpu

    times.append(time.perf_counter())
    if said := advice(settings.bundle, sees_nvidia_gpu=sees_nvidia_gpu()):
        _logger.info(said)
    bundle = quantized(bundle, settings, int8_obstacle(settings), weight_range())
    times.append(time.perf_counter())
    spans = (after - before for before, after in zip(times, times[1:], strict=False))
    _logger.info("start: bundle %.1f s, import of vLLM %.1f s, int8 %.1f s", *spans)
    return partial(VLLMEngine.load, bundle, settings, encoder, sandbox)
