"""Opens what this process needs of remote engines: their tokenizers and manifests, and no weights."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from slhf import Bundle
from slhf_server.bundles.opened import OpenBundle
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.loading.opening import open_bundle
from slhf_server.loading.run_examples import sandbox_for
from slhf_server.models.upstream.counters import UpstreamMetrics
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import Settings

if TYPE_CHECKING:
    from slhf_server.engine.remote import RemoteEngine


async def open_remote_engines(settings: Settings, metrics: UpstreamMetrics) -> "Mapping[str, RemoteEngine]":
    """The remote engines by name, none of which has been asked yet. Raises SettingsError."""
    if not settings.remote_engines:
        return {}
    from slhf_server.engine.remote import RemoteEngine  # imports an HTTP client, which not every server needs

    sandbox = await asyncio.to_thread(sandbox_for, settings)
    engines = {}
    for name, remote in settings.remote_engines.items():
        bundle, encoder = await asyncio.to_thread(_open, name, remote.tokenizer, settings)
        _check_leader(name, bundle.manifest, settings)
        engines[name] = RemoteEngine(name, remote, bundle.manifest, encoder, metrics, sandbox=sandbox)
    return engines


def _open(name: str, tokenizer: str, settings: Settings) -> tuple[OpenBundle, PromptEncoder]:
    where = f"remote_engines.{name}.tokenizer"
    try:
        bundle = open_bundle(settings.model_copy(update={"bundle": tokenizer}), weights=False)
        return bundle, PromptEncoder.open_light(bundle.weights)
    except SettingsError as exc:
        raise SettingsError(f"{where}: {exc}") from exc
    except ImportError as exc:
        raise SettingsError(
            f"{where}: {tokenizer!r} is made with {exc.name}, which is not installed: give a directory or a hub id"
        ) from exc


def _check_leader(name: str, manifest: Bundle, settings: Settings) -> None:
    """The server has a name for the Leader's weights, if anybody wants them."""
    remote = settings.remote_engines[name]
    leads = any(
        model.follower == name and model.leader == "follower-engine"
        for model in settings.served(settings.bundle).values()
    )
    named = manifest.leader == manifest.follower or (remote.adapter is not None and manifest.leader.adapter is None)
    if not named and (leads or manifest.own_answers is not None):
        raise SettingsError(
            f"remote_engines.{name}.adapter: {remote.adapter!r} cannot be the bundle's Leader as well as its Follower,"
            " which have weights of their own: a model with this follower needs another leader"
        )
