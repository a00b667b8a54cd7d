"""Tells operators at start that their machine could serve more than what is built in."""

from slhf.bundle import BUILTIN_PREFIX

AUTHORS_CHECKPOINT = "pasztorb/Llama-3.1-Tulu-3-8B-SLHF"
"""The published model of the paper's authors (arXiv 2512.16626); one set of weights plays both roles."""


def advice(bundle: str, *, sees_nvidia_gpu: bool) -> str | None:
    """One line for the log, or None where there is nothing to say. `bundle` is the setting of that name."""
    if not sees_nvidia_gpu or not bundle.startswith(BUILTIN_PREFIX):
        return None
    return (
        f"{bundle} is small enough for a CPU, and here is an NVIDIA GPU. The authors' own 8B model (16 GB, from the "
        f"Hugging Face hub): scripts/serve --bundle {AUTHORS_CHECKPOINT}"
    )
