"""A bundle on the Hugging Face hub (or what HF_ENDPOINT names), where `slhf-server --bundle OWNER/NAME` finds it.

A push is one commit of all files. A bundle without a README.md gets a card of what its manifest says; the directory
itself stays as it is.
"""

import json
from pathlib import Path

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi, ModelCardData, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it is documented there

from slhf import Bundle, read_bundle
from slhf.bundle import BUILTIN_PREFIX, CARD, MANIFEST
from slhf.errors import BundleError
from slhf_training.errors import SettingsError


def push(directory: Path, repo: str, *, public: bool = False) -> str:
    """Write the bundle into the repository, which is made where there is none, and return its id with the owner.

    A repository that is there keeps its visibility, and files of earlier pushes that this one does not have. A push
    that was cut short is repeated: what the hub has by its digest is not sent again.

    Raises SettingsError for what is no bundle that others could load, without a token, and with what the hub or the
    network says.
    """
    bundle = _loadable_elsewhere(directory)
    try:
        validate_repo_id(repo)
    except HFValidationError as exc:
        raise SettingsError(f"REPO: {exc}") from exc
    if get_token() is None:
        raise SettingsError("there is no token of the hub: set HF_TOKEN to one that may write, or run `hf auth login`")
    api = HfApi(library_name="slhf-training")
    try:
        owned = api.create_repo(repo, private=not public, exist_ok=True).repo_id
        api.create_commit(owned, _files(directory, bundle, owned), commit_message=f"{bundle.name} {bundle.revision}")
    except (HfHubHTTPError, httpx2.TransportError, OfflineModeIsEnabled, ValueError) as exc:
        raise SettingsError(f"REPO: {repo}: the hub at {api.endpoint} did not take it: {exc}") from exc
    return owned


def _loadable_elsewhere(directory: Path) -> Bundle:
    if not (directory / MANIFEST).is_file():
        raise SettingsError(f"BUNDLE: {directory}: no {MANIFEST} is in it; `slhf-train export` writes a bundle")
    try:
        bundle = read_bundle(directory)
    except BundleError as exc:
        raise SettingsError(f"BUNDLE: {exc}") from exc
    base = bundle.base_model
    if (directory / base).is_dir():
        found = (directory / base).resolve().is_relative_to(directory.resolve())
    else:
        found = base.startswith(BUILTIN_PREFIX) or _is_hub_id(base)
    if not found:
        raise SettingsError(f"BUNDLE: {directory / MANIFEST}: base_model: {base!r} is on this machine alone")
    return bundle


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _files(directory: Path, bundle: Bundle, repo: str) -> list[CommitOperationAdd]:
    """Every file that is not hidden, by its path in the bundle, and a card."""
    paths = {path.relative_to(directory): path for path in sorted(directory.rglob("*")) if path.is_file()}
    shown = {name: path for name, path in paths.items() if not any(part.startswith(".") for part in name.parts)}
    added = [CommitOperationAdd(name.as_posix(), path) for name, path in shown.items()]
    if Path(CARD) not in shown:
        added.append(CommitOperationAdd(CARD, card(bundle, repo).encode()))
    return added


def card(bundle: Bundle, repo: str) -> str:
    """A model card in the hub's form: metadata in YAML, then Markdown."""
    base = bundle.base_model if _is_hub_id(bundle.base_model) else None
    metadata = ModelCardData(base_model=base, library_name="slhf", pipeline_tag="text-generation", tags=["slhf"])
    shown = bundle.card()
    rows = {
        "base model": bundle.base_model if bundle.base_model != "." else "in this repository",
        "trained by": bundle.trained,
        "steps": bundle.training.get("step", "not recorded"),
        "roles": f"{shown['roles']} weights",
        "revision": bundle.revision or "not recorded",
    }
    figures = json.dumps(bundle.evaluation, indent=1, ensure_ascii=False)
    lines = [
        "---",
        metadata.to_yaml(),
        "---",
        f"# {bundle.name}",
        "",
        "A Leader that answers, and a Follower that refines its drafts and other models' (SLHF, arXiv 2512.16626).",
        "",
        "```sh",
        f"slhf-server --bundle {repo}",
        "```",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items()),
        "",
        f"`{MANIFEST}` has all settings of the training.",
        "",
        "## Evaluation",
        "",
        *(["```json", figures, "```"] if bundle.evaluation else ["None was recorded."]),
        "",
    ]
    return "\n".join(lines)
