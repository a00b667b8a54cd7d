"""A bundle that was found and checked, as every later step gets it."""

from dataclasses import dataclass
from pathlib import Path

from slhf import Bundle


@dataclass(frozen=True, slots=True)
class OpenBundle:
    """A bundle on local disk."""

    directory: Path
    manifest: Bundle
    weights: Path
    """Directory of the base model."""

    def adapter(self, role: str) -> Path | None:
        """Directory of the role's LoRA adapter, or None."""
        adapter = (self.manifest.leader if role == "leader" else self.manifest.follower).adapter
        return None if adapter is None else self.directory / adapter
