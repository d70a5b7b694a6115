"""Any fsspec filesystem as a backend."""

from fsbackup.backends.generic.storage import GenericStorage
from fsbackup.backends.generic.store import GenericObjects

__all__ = ["GenericObjects", "GenericStorage"]
