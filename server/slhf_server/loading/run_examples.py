"""Whether programs of clients and models run on the examples of their prompts: the setting `run_examples`."""

import functools
import logging

from slhf.errors import SandboxError
from slhf_server.models.requirements.running import Sandbox
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import Settings, is_loopback

_logger = logging.getLogger(__name__)


def sandbox_for(settings: Settings) -> Sandbox | None:
    """The sandbox of this process; None: no programs are run. Raises SettingsError where there has to be one."""
    local = is_loopback(settings.host)
    if settings.run_examples == "off" or (settings.run_examples == "auto" and not local):
        return None
    try:
        return _sandbox()
    except SandboxError as exc:
        if settings.run_examples == "on":
            raise SettingsError(f"run_examples: {exc}") from exc
        _logger.warning("programs are not run on their prompts' examples: %s", exc)
        return None


@functools.cache
def _sandbox() -> Sandbox:
    """One for all engines, because all of them share the cores."""
    return Sandbox()
