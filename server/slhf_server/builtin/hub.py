"""The Hugging Face hub, or what HF_ENDPOINT names, as a source; files are always those of the pinned commit."""

import os
import threading
from concurrent.futures import Future
from pathlib import Path

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented there

from slhf_server.builtin.attempt import Unavailable, begin
from slhf_server.builtin.progress import Progress
from slhf_server.builtin.weights import Hub, Weights
from slhf_server.settings.server import Settings

_FAILURES = (HfHubHTTPError, httpx2.HTTPError, httpx2.InvalidURL, OSError)


def hub_cache(weights: Weights, place: Path, settings: Settings) -> Path:
    """The file in Hugging Face's cache, without network."""
    hub = _known(weights)
    found = try_to_load_from_cache(hub.repo, hub.path, revision=hub.revision)
    if not isinstance(found, str):
        raise Unavailable(f"{hub.repo} at {hub.revision} is not there")
    return Path(found)


def hub(weights: Weights, place: Path, settings: Settings) -> Path:
    """The file from the hub; a download goes on from the byte where an earlier one stopped."""
    known = _known(weights)
    if constants.is_offline_mode():
        raise Unavailable("HF_HUB_OFFLINE is set")
    url = hf_hub_url(known.repo, known.path, revision=known.revision)
    try:
        _await_answer(url)
    except _FAILURES as exc:
        raise Unavailable(f"{constants.ENDPOINT} cannot be reached, or has no {known.repo}: {exc}") from exc
    return _download(url, weights, place)


def _known(weights: Weights) -> Hub:
    if weights.hub is None:
        raise Unavailable("it is not there")
    return weights.hub


def _await_answer(url: str) -> None:
    """Raises one of `_FAILURES` for a file that is not there, and without an answer in 10 s (HF_HUB_ETAG_TIMEOUT).

    The limit is kept from outside, because httpx2's holds for each address of a host, and looking them up has none.
    """
    answer: Future[object] = Future()

    def ask() -> None:
        try:
            answer.set_result(get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT))
        except _FAILURES as exc:
            answer.set_exception(exc)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer.result(constants.HF_HUB_ETAG_TIMEOUT)
    except (TimeoutError, httpx2.TimeoutException) as exc:
        raise OSError(f"no answer within {constants.HF_HUB_ETAG_TIMEOUT} s") from exc


def _download(url: str, weights: Weights, place: Path) -> Path:
    partial = place / "hub.partial"
    if partial.exists() and (partial.stat().st_size > weights.bytes or not os.access(partial, os.W_OK)):
        partial.unlink()  # it is of another file, or another user's
    begun = partial.stat().st_size if partial.exists() else 0
    begin(weights, place, constants.ENDPOINT, weights.bytes - begun)
    try:
        with partial.open("ab") as file:
            http_get(
                url,
                file,
                resume_size=begun,
                headers=build_hf_headers(),
                expected_size=weights.bytes,
                displayed_filename=weights.file,
                tqdm_class=Progress,
            )
    except _FAILURES as exc:
        if isinstance(exc, OSError) and exc.errno is not None:  # a full disk, say
            raise
        raise Unavailable(f"{constants.ENDPOINT} broke off: {exc}") from exc
    return partial.replace(place / weights.file)
