"""The local disk as a backend."""

from fsbackup.backends.local.storage import LocalStorage
from fsbackup.backends.local.store import LocalObjects

__all__ = ["LocalObjects", "LocalStorage"]
