"""Backups in several places at once: every copy is verifiable, and reads use whichever copies are available.

The public names are imported on first use, so that ``import fsbackup`` itself loads none of them.
"""

from __future__ import annotations

from fsbackup.lazy import TYPE_CHECKING, names_of

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fsbackup.backends import (
        BackblazeB2Storage,
        CloudflareR2Storage,
        GenericStorage,
        LocalStorage,
        S3Storage,
        StorageBackend,
    )
    from fsbackup.config import load_config
    from fsbackup.engine.command import Command
    from fsbackup.errors import DegradedWriteWarning, DiscardedError, NotStoredWarning, StaleReadWarning
    from fsbackup.factory import get_storage_backend
    from fsbackup.replication.storage import ReplicatedStorage
    from fsbackup.stages import Stages

_MODULES = {
    "BackblazeB2Storage": "fsbackup.backends",
    "CloudflareR2Storage": "fsbackup.backends",
    "Command": "fsbackup.engine.command",
    "DegradedWriteWarning": "fsbackup.errors",
    "DiscardedError": "fsbackup.errors",
    "GenericStorage": "fsbackup.backends",
    "LocalStorage": "fsbackup.backends",
    "NotStoredWarning": "fsbackup.errors",
    "ReplicatedStorage": "fsbackup.replication.storage",
    "S3Storage": "fsbackup.backends",
    "Stages": "fsbackup.stages",
    "StaleReadWarning": "fsbackup.errors",
    "StorageBackend": "fsbackup.backends",
    "get_storage_backend": "fsbackup.factory",
    "load_config": "fsbackup.config",
}

__all__ = [
    "BackblazeB2Storage",
    "CloudflareR2Storage",
    "Command",
    "DegradedWriteWarning",
    "DiscardedError",
    "GenericStorage",
    "LocalStorage",
    "NotStoredWarning",
    "ReplicatedStorage",
    "S3Storage",
    "Stages",
    "StaleReadWarning",
    "StorageBackend",
    "get_storage_backend",
    "load_config",
]


__getattr__ = names_of(__name__, _MODULES)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
