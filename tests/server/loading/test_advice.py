"""Where an NVIDIA GPU is seen, a start with a small model names the authors' 8B checkpoint."""

import pytest

from slhf_server.loading.advice import advice

CHECKPOINT = "pasztorb/Llama-3.1-Tulu-3-8B-SLHF"


@pytest.mark.parametrize("bundle", ["builtin:smollm2-135m", "builtin:smollm2-135m-slhf"])
def test_a_small_model_on_a_gpu_is_told_of_the_authors_checkpoint_and_the_command(bundle: str) -> None:
    said = advice(bundle, sees_nvidia_gpu=True)
    assert said is not None
    assert said.startswith(bundle)
    assert "16 GB" in said
    assert said.endswith(f"scripts/serve --bundle {CHECKPOINT}")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("bundle", "gpu"), [("builtin:smollm2-135m", False), (CHECKPOINT, True), ("owner/other", True), ("./mine", True)]
)
def test_nothing_is_said_without_a_gpu_or_of_a_model_that_was_chosen(bundle: str, gpu: bool) -> None:
    assert advice(bundle, sees_nvidia_gpu=gpu) is None
