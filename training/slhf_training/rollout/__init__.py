"""Sampling answers: one method between training and whatever generates. Token ids go in and token ids come out.

Imported by fit and evaluation.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Annotated, Literal, Protocol, Self, runtime_checkable

from pydantic import Field, model_validator

from slhf_training.config import EngineArguments, RelativePath, Section
from slhf_training.types import Ids, Player, Sample

SEEDS = (1 << 63) - 1
"""The bits of a seed that vLLM takes: its seeds are signed 64-bit numbers."""


class Rollout(Protocol):
    def sample(self, prompts: Sequence[Ids], player: Player, seeds: Sequence[int]) -> list[Sample]:
        """Return one answer for each prompt, sampled by the player's current weights.

        A prompt's answer depends on its own seed alone and not on what else is in the batch, so that batches and
        processes can be cut differently with the same result.
        """


Ask = Callable[[int, Ids, int], "Future[Sample]"]
"""Asks for one answer, given its place among those that belong together, its prompt and its seed; returns at once."""


@runtime_checkable
class Streaming(Protocol):
    """A rollout that is asked for one answer at a time, and answers in its own time."""

    def asking(self, player: Player) -> Ask:
        """Return what asks for answers by the player's weights as they are now. All processes must call it."""


@runtime_checkable
class Sleeping(Protocol):
    """A rollout whose memory others may have while nothing is sampled."""

    def sleep(self) -> None:
        """Give memory back until the next `sample`. Where there is none to give back, it does nothing."""


class Servers(Section):
    """vLLM servers of the same base model, started as docs/design.md says."""

    urls: list[Annotated[str, Field(pattern=r"^https?://")]] = Field(min_length=1)
    """The root of each, such as http://127.0.0.1:8000; prompts are divided among them."""
    adapters: RelativePath
    """A directory that this process can write and that every server can read by the same path."""
    api_key_variable: str | None = None
    """The environment variable that holds the key; None: no key is sent."""
    timeout_s: float = Field(default=600, gt=0)
    """Seconds for one answer."""


_SHARED = {"tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend"}


class RolloutSettings(Section):
    engine: Literal["hf", "vllm", "vllm-server"] = "hf"
    """What samples: transformers, vLLM in each process, or vLLM servers (adapters only)."""
    temperature: float = Field(default=0.9, gt=0, le=2)
    """The temperature of sampling and of the log-probs that are trained. Top-p or top-k would bias the gradient."""
    max_new_tokens: int = Field(default=256, gt=0)
    max_prompt_tokens: int = Field(default=1024, gt=0)
    """A chat whose own prompt is longer is counted and dropped before training."""
    batch_size: int = Field(default=64, gt=0)
    """Answers that are sampled at once."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """The dtype of the model that samples, where it is in this process."""
    vllm: EngineArguments = {}
    """With `engine: vllm`: further arguments of its LLM, by vLLM's names. On a GPU it gives its memory to the learner's
    step, unless enable_sleep_mode is false."""
    servers: Servers | None = None
    """With `engine: vllm-server`: where the servers are."""

    @model_validator(mode="after")
    def _what_does_not_go_together(self) -> Self:
        if self.vllm and self.engine != "vllm":
            raise ValueError(f"vllm: needs engine: vllm, not {self.engine}")
        if (self.servers is None) != (self.engine != "vllm-server"):
            raise ValueError(f"servers: engine vllm-server needs them, and no other does; engine is {self.engine}")
        if ours := self.vllm.keys() & {"model", "dtype", "logprobs_mode", "max_num_seqs", "seed"}:
            raise ValueError(f"vllm.{min(ours)}: follows from other settings")
        if shared := self.vllm.keys() & _SHARED:
            raise ValueError(f"vllm.{min(shared)}: each process has an engine of its own; use engine: vllm-server")
        return self
