"""The bundle, which training writes and the server loads: a directory that its `slhf.json` describes.

    my-bundle/
        slhf.json            this module's `Bundle`
        config.json, ...     the base model's weights and tokenizer, unless `base_model` says where else they are
        leader/, follower/   LoRA adapters in peft's format, each optional
        judge/               a reward model that `slhf-train reward` wrote, optional

A directory that holds a Hugging Face model and no `slhf.json` is a bundle too: one set of weights plays both roles with
the paper's follower turn, and `trained` is "unknown".
"""

import hashlib
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slhf.errors import BundleError
from slhf.json_text import read_json
from slhf.readings import MARGIN
from slhf.turns import FOLLOWER_TURN
from slhf.wire import Select, StopWhen

MANIFEST = "slhf.json"
CARD: Final = "README.md"
"""What people read of a bundle."""
JUDGE: Final = "judge"
"""The directory of a bundle's judge."""
FORMAT: Final = 1
BUILTIN_PREFIX: Final = "builtin:"
"""What the name of a model that is built into the server begins with."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RoleWeights(_Strict):
    """What one role adds to the base model."""

    adapter: str | None = None
    """Path of a LoRA adapter (peft's format) relative to the bundle; None: the base model's weights as they are."""


class SamplingDefaults(_Strict):
    """What is used where a request does not say. None leaves the choice to the engine."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    """0 or -1 allows all tokens, also where the model's own `generation_config.json` says otherwise."""
    repetition_penalty: float | None = Field(default=None, gt=0, le=2)
    """1 is no penalty. vLLM counts the prompt's tokens too, and so those of a draft."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Tokens of one round; None: as many as the context leaves."""


class OwnAnswers(_Strict):
    """Answers that the Follower's model writes as the Leader, all at once and without the draft in sight, before it
    refines. They stand in the Follower's turn (slhf/turns.py), and the draft is compared with them: a Follower whose
    thoughts are their results alone leaves the decision to these (slhf/readings.py)."""

    count: int = Field(ge=1, le=16)
    max_tokens: int = Field(gt=0)
    """Tokens of each; what is longer is left out."""
    temperature: float = Field(gt=0, le=2)
    """Theirs alone, whatever a request says: without any they would be one answer, and with much they are worse."""
    margin: int = Field(default=MARGIN, ge=1, le=32)
    """How many more of them have to give another result than give the draft's, so that it takes the draft's place."""
    further: int = Field(default=0, ge=0, le=16)
    """How many more are written where another result leads by less than `margin`; then all are counted."""
    first_look: bool = False
    """Whether the Follower looks at the draft alone first: where all that it says then is the thought `It stays.`
    (slhf/readings.py), the draft stays and no own answer is written."""
    only_results: bool = False
    """Whether a draft that states no result (slhf.readings.states_result) stays as it is, without the Follower being
    asked: its readings would find nothing to compare. The bundle must be one that `keeps_by_silence`."""


class SmallEdit(_Strict):
    edit_ratio: float = Field(ge=0, le=1)
    """A round that changed at most this share of the words ends the refinement."""


class JudgeSure(_Strict):
    p: float = Field(gt=0.5, le=1)
    """A round that is better with at least this probability ends the refinement."""


class SelectMargin(_Strict):
    margin: float = Field(gt=0.5, le=1)
    """A later text has to be better with at least this probability, to be the answer."""


class StopRules(_Strict):
    """Thresholds, as `slhf-train evaluate` measured them for this bundle. None: not measured."""

    small_edit: SmallEdit | None = None
    judge_sure: JudgeSure | None = None
    select: SelectMargin | None = None


class BundledJudge(_Strict):
    """The reward model that lies in `judge/`; `slhf-train reward serve BUNDLE/judge` answers for it."""

    head: str = Field(min_length=1)
    """Which of its heads scores texts."""
    accuracy: dict[str, Any] = {}
    """By name of held-out pairs: how often it was right (`accuracy`, `interval`), of how many (`pairs`), `coverage`."""


class Bundle(_Strict):
    """The manifest `slhf.json`."""

    format: Literal[1] = FORMAT
    name: str = Field(min_length=1)
    base_model: str = "."
    """A path relative to the bundle ("." = weights lie beside this file), a Hugging Face hub id, or `builtin:NAME`: a
    model that is built into the server."""
    leader: RoleWeights = RoleWeights()
    follower: RoleWeights = RoleWeights()
    follower_turn: str = Field(default=FOLLOWER_TURN, min_length=1)
    keeps_by_silence: bool = False
    """Whether a Follower that has thought (`<think>...</think>`) and then says nothing leaves the draft as it is.
    Without it, saying nothing is a failure."""
    own_answers: OwnAnswers | None = None
    """What the Follower writes for itself before each round; None: nothing, it sees the draft alone."""
    tool_parser: str | None = Field(default=None, min_length=1)
    """vLLM's parser of the tool calls that the Leader writes (`hermes`, `llama3_json`, ...); None: the one that the
    chat template tells."""
    reasoning_parser: str | None = Field(default=None, min_length=1)
    """vLLM's parser of the models' thoughts (`qwen3`, `mistral`, ...); None: they stand in `<think>...</think>`."""
    select: Select | None = None
    """Which round is the answer where neither the request nor the served model says. A server whose model has no judge
    leaves `judge` aside."""
    stop_when: tuple[StopWhen, ...] | None = None
    """What ends a refinement early, as above; a server without a judge leaves aside what asks one."""
    stop_rules: StopRules = StopRules()
    judge: BundledJudge | None = None
    sampling: SamplingDefaults = SamplingDefaults()
    revision: str | None = None
    """`revision_of` the bundle's other files when it was written; None: not recorded."""
    trained: str = "unknown"
    """The algorithm that trained it ("stackelberg", ...), "no" for an untrained model, or "unknown"."""
    training: dict[str, Any] = {}
    """Facts of the training run: data, steps, settings."""
    evaluation: dict[str, Any] = {}
    """The evaluation card: figures with the data and judge they were measured with."""

    @model_validator(mode="after")
    def _has_the_threshold(self) -> "Bundle":
        if "small_edit" in (self.stop_when or ()) and self.stop_rules.small_edit is None:
            raise ValueError("stop_when: small_edit needs a threshold in stop_rules")
        return self

    @model_validator(mode="after")
    def _may_keep_a_draft(self) -> "Bundle":
        if self.own_answers is not None and self.own_answers.only_results and not self.keeps_by_silence:
            raise ValueError("own_answers.only_results: needs keeps_by_silence")
        return self

    @property
    def root(self) -> str:
        """What others are told of the base model: its hub id or `builtin:NAME`, or else the bundle's name; no path."""
        if self.base_model.startswith(BUILTIN_PREFIX):
            return self.base_model
        is_hub_id = self.base_model.count("/") == 1 and not self.base_model.startswith((".", "/", "~"))
        return self.base_model if is_hub_id else self.name

    def card(self) -> dict[str, Any]:
        """What `GET /v1/models` shows of the bundle."""
        return {
            "bundle": self.name,
            "base_model": self.root,
            "revision": self.revision,
            "trained": self.trained,
            "roles": "shared" if self.leader == self.follower else "separate",
            "own_answers": 0 if self.own_answers is None else self.own_answers.count,
            "judge": None if self.judge is None else self.judge.model_dump(),
            "stop_rules": self.stop_rules.model_dump(exclude_none=True),
            "training": self.training,
            "evaluation": self.evaluation,
        }


def read_bundle(directory: Path, *, name: str | None = None) -> Bundle:
    """Read and check a bundle directory; adapters named by it must exist.

    `name` is used where there is no manifest (default: the directory's name).
    Raises BundleError naming the file and the key.
    """
    if not directory.is_dir():
        raise BundleError(f"bundle {directory}: no such directory")
    manifest = directory / MANIFEST
    if not manifest.exists():
        if not (directory / "config.json").exists():
            raise BundleError(f"bundle {directory}: neither {MANIFEST} nor a Hugging Face config.json is in it")
        return Bundle(name=name or directory.resolve().name, revision=revision_of(directory))
    try:
        bundle = Bundle.model_validate(read_json(manifest.read_bytes()))
    except ValidationError as exc:
        problems = "; ".join(f"{_key(error['loc'])}: {error['msg']}" for error in exc.errors())
        raise BundleError(f"{manifest}: {problems}") from exc
    except ValueError as exc:
        raise BundleError(f"{manifest}: file: Invalid JSON: {exc}") from exc
    for role, weights in (("leader", bundle.leader), ("follower", bundle.follower)):
        if weights.adapter is not None:
            _check_adapter(directory, weights.adapter, f"{manifest}: {role}.adapter")
    if bundle.judge is not None and not (directory / JUDGE / "reward.json").is_file():
        raise BundleError(f"{manifest}: judge: there is no reward model in {JUDGE}/ (reward.json)")
    return bundle


def write_bundle(directory: Path, bundle: Bundle) -> Bundle:
    """Write the manifest beside the weights, with the revision of the files that lie there; returns what it wrote."""
    stamped = bundle.model_copy(update={"revision": revision_of(directory)})
    (directory / MANIFEST).write_text(stamped.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return stamped


def revision_of(directory: Path) -> str:
    """Fingerprint of a bundle's files but its manifest and its card, which change nothing that it writes: the first 16
    hex digits of a sha256.

    Files up to 4 MiB count with their content. Larger ones (weights) count with name, size and first and last 64 KiB,
    so that a 16 GB model costs milliseconds; it tells revisions apart and does not protect against tampering.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in directory.rglob("*") if p.is_file() and p.name not in (MANIFEST, CARD)):
        digest.update(f"{path.relative_to(directory).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            if path.stat().st_size <= 4 << 20:
                digest.update(file.read())
            else:
                digest.update(file.read(64 << 10))
                file.seek(-(64 << 10), 2)
                digest.update(file.read())
    return digest.hexdigest()[:16]


def _key(loc: tuple[int | str, ...]) -> str:
    return ".".join(map(str, loc)) or "file"


def _check_adapter(directory: Path, adapter: str, key: str) -> None:
    """A missing or broken adapter must stop the server at start: in a request it would kill the engine."""
    path = directory / adapter
    if not path.resolve().is_relative_to(directory.resolve()):
        raise BundleError(f"{key}: {adapter!r} points outside the bundle")
    config = path / "adapter_config.json"
    if not config.exists() or not any(path.glob("adapter_model.*")):
        raise BundleError(
            f"{key}: {adapter!r} holds no peft adapter (adapter_config.json and adapter_model.safetensors)"
        )
    try:
        read_json(config.read_bytes())
    except ValueError as exc:
        raise BundleError(f"{key}: {config} is not JSON: {exc}") from exc
