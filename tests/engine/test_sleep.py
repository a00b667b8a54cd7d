"""Sleep on vLLM's CPU backend, which has none: the port says so, and an engine told to have it does not start."""

import pytest

from slhf_server.engine.prompt import PromptEncoder
from slhf_server.engine.vllm import VLLMEngine
from slhf_server.loading.opening import open_bundle
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import Settings
from tests.engine.conftest import EXACT, ExactEngine


def test_an_engine_on_a_cpu_says_why_it_cannot_sleep(exact: ExactEngine) -> None:
    """vLLM itself would answer that it sleeps, and keep the memory."""
    assert exact.sleep_obstacle == (
        "this engine cannot sleep: it needs the engine argument enable_sleep_mode, which vLLM has for GPUs alone"
    )


def test_one_that_is_told_to_have_it_ends_the_start_with_vllms_reason() -> None:
    settings = Settings(bundle="builtin:smollm2-135m", engine=EXACT | {"enable_sleep_mode": True})
    bundle = open_bundle(settings)
    with pytest.raises(SettingsError, match=r"(?s)^engine: .*Sleep mode is not supported on current platform"):
        VLLMEngine.load(bundle, settings, PromptEncoder.open(bundle.weights))
